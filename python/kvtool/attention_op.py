"""The op `kvtool::attention` in Python: its schema and a reference implementation.

    kvtool::attention(Tensor q, Tensor k, Tensor v, int layer, float scale,
                      int sliding_window, float softcap, Tensor? sinks) -> Tensor

    q      [B, Hq, S, Dk]    queries, after rotary embedding
    k      [B, Hkv, S, Dk]   keys, after rotary embedding; Hq is a multiple of Hkv
    v      [B, Hkv, S, Dv]   values
    layer  0 .. L-1          each layer calls the op exactly once, in order
    sliding_window           W > 0: query i sees key j iff 0 <= i - j < W; 0: no window
    softcap                  c > 0: scores become c * tanh(scores / c); 0: no cap
    sinks  [Hq] or None      per-head logits that join the softmax and are then dropped
    returns [B, S, Hq, Dv]   contiguous

The engine has its own implementation, which owns the cache. The one here serves
the exporter: it is what runs while a model is traced and while the trace is
checked against the original model. Outside an `AttentionScope` it is plain
causal attention over the S given positions.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch

SCHEMA = (
    "attention(Tensor q, Tensor k, Tensor v, int layer, float scale, int sliding_window, "
    "float softcap, Tensor? sinks) -> Tensor"
)
OP_NAME = "kvtool::attention"

_active = threading.local()


@dataclass
class _LayerRows:
    keys: torch.Tensor  # [B, Hkv, positions, Dk]
    values: torch.Tensor  # [B, Hkv, positions, Dv]


class AttentionScope:
    """What `kvtool::attention` does within it.

    Use it as a context manager around a forward pass; it acts on the calling thread only, and
    scopes may be nested.
    """

    def __enter__(self) -> AttentionScope:
        self._outer = getattr(_active, "scope", None)
        _active.scope = self
        return self

    def __exit__(self, *_exc) -> None:
        _active.scope = self._outer

    def attend(self, q, k, v, layer, scale, sliding_window, softcap, sinks) -> torch.Tensor:
        """The result of one call of the op."""
        raise NotImplementedError


class AttentionCache(AttentionScope):
    """A scope in which the op remembers the rows of earlier calls.

    Enter it around each forward pass of one sequence batch. Rows are appended by
    concatenation: it is made to be obviously right, for a handful of steps, not to be fast.

    `pads` is i64[B] or None: the number of left-padding positions of each row.
    No query sees them, and the output at such positions is zero.
    """

    def __init__(self, pads: torch.Tensor | None = None):
        self.pads = pads
        self._layers: dict[int, _LayerRows] = {}

    def attend(self, q, k, v, layer, scale, sliding_window, softcap, sinks) -> torch.Tensor:
        rows = self.append(layer, k, v)
        return _attend(q, rows.keys, rows.values, scale, sliding_window, softcap, sinks, self.pads)

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> _LayerRows:
        """Adds the rows of this pass to `layer` and returns all its rows so far."""
        rows = self._layers.get(layer)
        if rows is not None:
            k = torch.cat([rows.keys, k], dim=2)
            v = torch.cat([rows.values, v], dim=2)
        self._layers[layer] = _LayerRows(k, v)
        return self._layers[layer]


def visible_keys(
    num_queries: int,
    num_keys: int,
    sliding_window: int,
    pads: torch.Tensor | None,
    device: torch.device,
) -> torch.Tensor:
    """Which keys each query may see: bool [B or 1, 1, num_queries, num_keys].

    The queries are the last `num_queries` of the `num_keys` positions.
    """
    key = torch.arange(num_keys, device=device)
    distance = key[num_keys - num_queries :, None] - key[None, :]
    visible = distance >= 0
    if sliding_window > 0:
        visible &= distance < sliding_window
    visible = visible[None, None]
    if pads is not None:
        visible = visible & (key[None, None, None, :] >= pads.to(device)[:, None, None, None])
    return visible


def _attention(q, k, v, layer, scale, sliding_window, softcap, sinks):
    scope = getattr(_active, "scope", None)
    if scope is not None:
        return scope.attend(q, k, v, layer, scale, sliding_window, softcap, sinks)
    return _attend(q, k, v, scale, sliding_window, softcap, sinks, None)


def _attend(q, k, v, scale, sliding_window, softcap, sinks, pads):
    group = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(group, dim=1)
    v = v.repeat_interleave(group, dim=1)

    # The rounding points are those of the eager attention in transformers (scores
    # in the model's dtype, softmax in float32), so that a comparison in bfloat16
    # shows mistakes and not a different order of roundings.
    scores = torch.matmul(q, k.transpose(-1, -2)) * scale
    if softcap > 0:
        scores = torch.tanh(scores / softcap) * softcap
    visible = visible_keys(q.shape[2], k.shape[2], sliding_window, pads, q.device)
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype).reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    if sinks is not None:
        weights = weights[..., :-1]
    # A padding position sees no key at all: softmax over nothing is NaN there.
    weights = weights.masked_fill(~visible, 0.0).to(q.dtype)
    return torch.matmul(weights, v.to(q.dtype)).transpose(1, 2).contiguous()


# The library object owns the registration: it lasts as long as this module.
_library = torch.library.Library("kvtool", "DEF")
_library.define(SCHEMA)
_library.impl("attention", _attention, "CompositeExplicitAutograd")

attention = torch.ops.kvtool.attention
