"""How the position of a token turns its queries and keys: `rotary` in `kvtool.json`.

Nothing is taken from the config. A traced model is fed the same tokens at several positions
while attention answers with each token's own value, so that what enters a layer does not depend
on the position unless the model adds it there. The queries and keys of two positions then differ
by their rotation alone, and one counts as found where it says all of them from those of position
0, to the rounding of the model's type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kvtool.attention_op import AttentionScope
from kvtool.layer_probe import LayerSpec

HALVES = "halves"  # channel i of the first half and channel i of the second
INTERLEAVED = "interleaved"  # channels 2i and 2i + 1

_ASSUMED_POSITIONS = 4096  # for models that name no limit
# Of the model's type, relative to the pair: cosine, sine, two products and their sum, twice.
_ROUNDINGS = 8
# Models compute position times frequency in float32.
_ANGLE_ROUNDING = 2.0**-23

_POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|pos_encoding)$")


@dataclass(frozen=True)
class Rotation:
    """Of `dims` channels from `offset` on, pair i is turned by position * inv_freq[i] radians:
    (a, b) becomes (a cos - b sin, b cos + a sin)."""

    offset: int
    dims: int
    pairing: str
    inv_freq: tuple[float, ...]


@dataclass(frozen=True)
class Found:
    """Each layer's rotation, None where its queries and keys are the same at every position; or
    the reason why there is no such list."""

    layers: tuple[Rotation | None, ...] = ()
    reason: str | None = None


def find(
    traced: torch.jit.ScriptModule, model, layers: Sequence[LayerSpec], longest: int | None
) -> Found:
    """Of `model` as it was traced, on the CPU, for up to `longest` positions."""
    frequencies = _frequencies(traced)
    left = [_candidates(spec.key_dim, frequencies) for spec in layers]
    weight = model.get_input_embeddings().weight
    tokens = torch.tensor([[weight.shape[0] // divisor] for divisor in (2, 3, 5)])
    rounding = _ROUNDINGS * torch.finfo(weight.dtype).eps
    start = _rows_at(0, traced, tokens)
    for position in _positions(longest or _ASSUMED_POSITIONS):
        rows = _rows_at(position, traced, tokens)
        for layer, (candidates, before, after) in enumerate(zip(left, start, rows, strict=True)):

            def says(rotation, before=before, after=after, position=position):
                return all(
                    _says(rotation, position, a, b, rounding)
                    for a, b in zip(before, after, strict=True)
                )

            left[layer] = [each for each in candidates if says(each)]
            if not left[layer]:
                return Found(reason=_reason(model, layer, position, bool(frequencies)))
    return Found(tuple(candidates[0] for candidates in left))


def describe(found: Found) -> dict:
    """The field `rotary` of kvtool.json."""
    if found.reason is not None:
        return {"reason": found.reason}
    distinct = list(dict.fromkeys(each for each in found.layers if each is not None))
    return {
        "rotations": [
            {
                "offset": each.offset,
                "dims": each.dims,
                "pairing": each.pairing,
                "inv_freq": list(each.inv_freq),
            }
            for each in distinct
        ],
        "layers": [None if each is None else distinct.index(each) for each in found.layers],
    }


def turned(rows: torch.Tensor, rotation: Rotation | None, by: int) -> torch.Tensor:
    """Queries or keys [.., dim], float64, as they would be `by` positions later."""
    if rotation is None:
        return rows
    a, b = _pairs(rows, rotation)
    angles = by * torch.tensor(rotation.inv_freq, dtype=torch.float64)
    result = rows.clone()
    new_a, new_b = _pairs(result, rotation)
    new_a.copy_(a * angles.cos() - b * angles.sin())
    new_b.copy_(b * angles.cos() + a * angles.sin())
    return result


def _pairs(rows: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
    """Views [.., dims / 2]."""
    part = rows.narrow(-1, rotation.offset, rotation.dims)
    if rotation.pairing == HALVES:
        return tuple(part.chunk(2, dim=-1))
    return part[..., 0::2], part[..., 1::2]


def _frequencies(traced: torch.jit.ScriptModule) -> list[tuple[float, ...]]:
    """All buffers that may be some, whatever they are called."""
    found = [
        tuple(buffer.double().tolist())
        for _, buffer in sorted(traced.named_buffers())
        if buffer.dim() == 1 and buffer.is_floating_point()
    ]
    return list(dict.fromkeys(found))


def _candidates(key_dim: int, frequencies) -> list[Rotation | None]:
    """None first: what is the same everywhere needs no rotation."""
    candidates: list[Rotation | None] = [None]
    for inv_freq in frequencies:
        dims = 2 * len(inv_freq)
        if not 0 < dims <= key_dim:
            continue
        backwards = tuple(-frequency for frequency in inv_freq)
        candidates += [
            Rotation(offset, dims, pairing, speeds)
            for offset in sorted({0, key_dim - dims})
            for pairing in (HALVES, INTERLEAVED)
            for speeds in (inv_freq, backwards)
        ]
    return candidates


def _positions(longest: int) -> list[int]:
    """Near ones tell a frequency from its multiples, far ones from those close to it."""
    wanted = {1, 2, 3, 7, 61, longest // 3, longest // 2 + 1, longest - 2, longest - 1}
    return sorted(position for position in wanted if 0 < position < longest)


class _OwnValues(AttentionScope):
    """Attention to the token itself alone, without sinks."""

    def __init__(self):
        self.rows: list[tuple[torch.Tensor, torch.Tensor]] = []  # queries and keys of a layer

    def attend(self, q, k, v, *_asked) -> torch.Tensor:
        self.rows.append((q.double(), k.double()))
        return v.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(1, 2).contiguous()


def _rows_at(position: int, traced: Callable, tokens: torch.Tensor):
    """Per layer queries and keys [tokens, heads, 1, dim] of `tokens` [tokens, 1]."""
    with torch.no_grad(), _OwnValues() as scope:
        traced(tokens, torch.full_like(tokens, position), torch.tensor([0]))
    return scope.rows


def _says(
    rotation: Rotation | None,
    position: int,
    before: torch.Tensor,
    after: torch.Tensor,
    rounding: float,
) -> bool:
    """Whether `after`, at `position`, is `before`, at position 0, turned."""
    size = before.abs()
    allowed = torch.full_like(before[0, 0, 0], rounding)
    if rotation is not None:
        size = size.clone()
        a, b = _pairs(size, rotation)
        length = torch.hypot(a, b)
        a.copy_(length)
        b.copy_(length)
        angles = position * torch.tensor(rotation.inv_freq, dtype=torch.float64).abs()
        for part in _pairs(allowed, rotation):
            part.add_(angles * _ANGLE_ROUNDING)
    return bool(((turned(before, rotation, position) - after).abs() <= size * allowed).all())


def _reason(model, layer: int, position: int, has_frequencies: bool) -> str:
    names = [name for name, _ in [*model.named_modules(), *model.named_buffers()]]
    tables = [name for name in names if _POSITION_TABLE.search(name)]
    if tables:
        return f"it adds its positions to the embeddings ({tables[0]})"
    where = f"the queries and keys of layer {layer} at position {position}"
    if not has_frequencies:
        return f"{where} depend on the position, and it holds no rotary frequencies"
    return (
        f"{where} are not those of position 0, turned by any of its rotary frequencies (they "
        "change with the length, or are changed again after they were turned)"
    )
