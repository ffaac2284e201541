"""Checkpoints in MXFP4 (quant_method "mxfp4"): experts in blocks of 32 codes of 4 bits.

The OCP Microscaling formats, version 1.0: a value is E2M1(code) * 2^(scale - 127), one byte of
scale for a block. A tensor NAME is stored as NAME_blocks [experts, rows, blocks, 16], low
half of a byte first, and NAME_scales [experts, rows, blocks]; the model keeps it as
[experts, columns, rows].
"""

from __future__ import annotations

import torch

from kvtool.checkpoint import Stored, read_tensor
from kvtool.errors import UnsupportedModelError

# sign, two bits of exponent, one of mantissa
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = torch.tensor([*_E2M1, *(-value for value in _E2M1)])
_BLOCKS, _SCALES = "_blocks", "_scales"


def read_state(
    where: str, stored: dict[str, Stored], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors with all weights in `dtype`. Raises UnsupportedModelError for
    blocks without scales or of another shape."""
    state = {}
    for name in stored:
        base = name.removesuffix(_BLOCKS)
        if name.endswith(_SCALES) and name.removesuffix(_SCALES) + _BLOCKS in stored:
            continue
        if base == name:
            state[name] = read_tensor(stored, name)
            continue
        if base + _SCALES not in stored:
            raise UnsupportedModelError(
                f"{where}: {name} has no {base + _SCALES} beside it, so its values cannot be told"
            )
        blocks, scales = read_tensor(stored, name), read_tensor(stored, base + _SCALES)
        if blocks.dtype != torch.uint8 or blocks.shape != (*scales.shape, 16):
            raise UnsupportedModelError(
                f"{where}: {name} has shape {tuple(blocks.shape)} and {blocks.dtype}, its scales "
                f"{tuple(scales.shape)}; MXFP4 has one scale for 16 bytes"
            )
        state[base] = dequantize(blocks, scales, dtype).transpose(-1, -2).contiguous()
    return state


def dequantize(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[..., rows, columns] in `dtype`, of blocks [..., rows, n, 16] and scales [..., rows, n]."""
    codes = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2).long()
    factors = (scales.float() - 127).exp2().unsqueeze(-1)
    return (_VALUES[codes] * factors).to(dtype).flatten(-2)
