"""Finds out, from a running model, what each attention layer asks for.

One forward pass runs with an attention implementation that computes the usual
result and notes every call. The attention *mask* of a layer is the authority on
what the layer sees: eager attention follows nothing else, while the
`sliding_window` argument that models pass beside it is only a hint for some
kernels (a model that passes another window than its mask has is refused). transformers builds each mask from a function of two positions, so the
probe evaluates that function far beyond the length of the pass and accepts
exactly two shapes: causal, and causal within a window of W keys.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from kvtool.attention_op import attention
from kvtool.errors import UnsupportedModelError
from kvtool.implementations import implementations

PROBE_IMPLEMENTATION = "kvtool_probe"

# Arguments that models hand through to every attention implementation and that
# cannot change the result of attention.
_HARMLESS_ARGUMENTS = frozenset(
    {
        "cache_position",
        "layer_idx",
        "num_items_in_batch",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)

# Masks are examined up to twice the model's positions, but never further than this.
_MAX_EXAMINED_POSITION = 1 << 22
_ASSUMED_POSITIONS = 1 << 17


@dataclass(frozen=True)
class LayerSpec:
    """What one layer's call of `kvtool::attention` looks like."""

    num_heads: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    key_dtype: torch.dtype
    value_dtype: torch.dtype
    sliding_window: int  # keys; 0: no window
    scale: float
    softcap: float  # 0: none
    has_sinks: bool


def probe_layers(
    model, forward: Callable[[], object], max_positions: int | None
) -> list[LayerSpec]:
    """Runs `forward` (a pass without cache, with an all-ones attention mask) and
    returns the layers in call order.

    Raises UnsupportedModelError when a call cannot be expressed by the op.
    """
    probe = _Probe(max_positions)
    with _registered(probe), implementations(model, PROBE_IMPLEMENTATION):
        forward()
    return probe.layers


@contextmanager
def _registered(probe: _Probe):
    AttentionInterface.register(PROBE_IMPLEMENTATION, probe.attend)
    AttentionMaskInterface.register(PROBE_IMPLEMENTATION, probe.make_mask)
    try:
        yield
    finally:
        AttentionInterface._global_mapping.pop(PROBE_IMPLEMENTATION, None)
        AttentionMaskInterface._global_mapping.pop(PROBE_IMPLEMENTATION, None)


class _Probe:
    def __init__(self, max_positions: int | None):
        self.layers: list[LayerSpec] = []
        self._max_positions = max_positions or _ASSUMED_POSITIONS
        # The tensors are kept alive, so that an address names one tensor only.
        self._windows: dict[int, tuple[int | None, torch.Tensor]] = {}
        self._keys: dict[int, tuple[int, torch.Tensor]] = {}

    def make_mask(self, *args, mask_function, **kwargs) -> torch.Tensor | None:
        mask = eager_mask(*args, mask_function=mask_function, **kwargs)
        if mask is None:  # a bidirectional mask without padding
            return None
        window = _window_of(mask_function, self._max_positions)
        self._windows[mask.data_ptr()] = (window, mask)
        return mask

    def attend(self, module, query, key, value, attention_mask, **kwargs):
        layer = len(self.layers)
        spec, sinks = self._describe(layer, module, query, key, value, attention_mask, kwargs)
        self.layers.append(spec)
        out = attention(
            query, key, value, layer, spec.scale, spec.sliding_window, spec.softcap, sinks
        )
        return out, None

    def _describe(self, layer, module, query, key, value, mask, kwargs):
        def refuse(reason):
            raise UnsupportedModelError(
                f"attention layer {layer} ({type(module).__name__}): {reason}"
            )

        if query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
            refuse("its queries, keys and values are not of shape [batch, heads, positions, dim]")
        if not query.shape[2] == key.shape[2] == value.shape[2]:
            refuse("it has another number of keys than of queries (cross-attention?)")
        if key.shape[1] != value.shape[1] or query.shape[1] % key.shape[1] != 0:
            refuse(
                f"{query.shape[1]} query, {key.shape[1]} key and {value.shape[1]} value heads "
                "do not form groups"
            )
        if key.shape[3] != query.shape[3]:
            refuse("queries and keys differ in dimension")
        number = getattr(module, "layer_idx", layer)
        if number != layer:
            refuse(
                "the layers do not call attention once each, in order, as the op needs it: this one "
                f"calls itself layer {number}"
            )
        first_user = self._keys.setdefault(key.data_ptr(), (layer, key))[0]
        if first_user != layer:
            refuse(f"it shares its keys with layer {first_user}; shared caches are not supported")

        arguments = dict(kwargs)
        scale = arguments.pop("scaling", None)
        softcap = arguments.pop("softcap", None)
        sinks = arguments.pop("s_aux", None)
        passed_window = arguments.pop("sliding_window", None)
        if arguments.pop("dropout", 0.0):
            refuse("it uses dropout in evaluation mode")
        if arguments.pop("is_causal", True) is False or getattr(module, "is_causal", True) is False:
            refuse("it is not causal")
        for name, given in arguments.items():
            if given is not None and name not in _HARMLESS_ARGUMENTS:
                refuse(f"it passes '{name}', which the op kvtool::attention cannot express")
        for name, given in (("scaling", scale), ("softcap", softcap)):
            if isinstance(given, torch.Tensor):
                refuse(f"its {name} is a tensor, the op needs a fixed number")
        if sinks is not None and tuple(sinks.shape) != (query.shape[1],):
            refuse(f"its sinks have shape {tuple(sinks.shape)}, not one value per head")

        if mask is None:
            refuse("it runs without a causal mask (bidirectional?)")
        if mask.data_ptr() not in self._windows:
            refuse("it builds an attention mask of its own, which the op cannot express")
        window = self._windows[mask.data_ptr()][0]
        if window is None:
            refuse(
                "its attention mask is neither causal nor causal within a sliding window "
                "(bidirectional, chunked, or mixed with another pattern)"
            )
        if passed_window not in (None, window):
            refuse(
                f"it passes a sliding window of {passed_window} positions, but its mask has "
                f"{window or 'none'}: which one counts depends on the implementation of attention"
            )

        spec = LayerSpec(
            num_heads=query.shape[1],
            num_kv_heads=key.shape[1],
            key_dim=key.shape[3],
            value_dim=value.shape[3],
            key_dtype=key.dtype,
            value_dtype=value.dtype,
            sliding_window=window,
            scale=float(query.shape[3] ** -0.5 if scale is None else scale),
            softcap=float(softcap or 0.0),
            has_sinks=sinks is not None,
        )
        return spec, sinks


def _window_of(mask_function: Callable, max_positions: int) -> int | None:
    """The window W of a mask function, 0 for plain causal, None for any other pattern.

    No error: models create masks that none of their layers use.
    """
    last = min(2 * max_positions + 64, _MAX_EXAMINED_POSITION)
    keys = torch.arange(last + 2)
    zero = torch.tensor(0)

    def seen_by(query: int) -> torch.Tensor:
        seen = mask_function(zero, zero, torch.tensor(query), keys)
        return torch.broadcast_to(seen, keys.shape)

    count = int(seen_by(last).sum())
    window = 0 if count == last + 1 else count
    for query in (0, 1, 7, last // 7, last // 3, last // 2 + 1, last - 1, last):
        expected = keys <= query
        if window:
            expected &= keys > query - window
        if not torch.equal(seen_by(query), expected):
            return None
    return window
