"""Checkpoints in FP8 (quant_method "fp8"): weights in 8 bits with scales beside them.

transformers divides the weight evenly into as many blocks as there are scales, which is
another division than the checkpoint's where the last block is not whole. Here the formula of
the format is followed,

    W[i, j] = code[i, j] * scale[i // block_rows, j // block_columns]

with one scale for a whole tensor or for each row as special cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kvtool.checkpoint import Stored, read_tensor
from kvtool.errors import UnsupportedModelError

_CODES = ("F8_E4M3", "F8_E5M2")
_VALUES = ("F64", "F32", "F16", "BF16", "BOOL")

# What the format divides into where the config does not say.
_DEFAULT_BLOCK = (128, 128)

# Scales of what kvtool leaves in floating point: the inputs of layers, and cached rows.
_UNUSED_SCALES = ("input_scale", "activation_scale", "k_scale", "v_scale", "kv_scale", "q_scale",
                  "prob_scale")  # fmt: skip


def read_state(
    where: str, stored: dict[str, Stored], quantization: dict, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors with all weights in `dtype`, scales applied and left out.

    Raises UnsupportedModelError for codes without scales, scales without codes, and a
    division into blocks that is not the config's.
    """
    block = quantization.get("weight_block_size", _DEFAULT_BLOCK)
    scale_of = {}
    for name, tensor in stored.items():
        if tensor.dtype in _CODES:
            scale_of[name] = _scale_name(where, name, stored)
    scales = set(scale_of.values())
    state = {}
    for path in sorted({tensor.file for tensor in stored.values()}):
        for name in [name for name, tensor in stored.items() if tensor.file == path]:
            if name in scales or name.rpartition(".")[2] in _UNUSED_SCALES:
                continue
            if name not in scale_of:
                if stored[name].dtype not in _VALUES:
                    raise UnsupportedModelError(
                        f"{where}: {name} is stored in {stored[name].dtype}, which is no FP8"
                    )
                state[name] = read_tensor(stored, name)
                continue
            codes, scale = read_tensor(stored, name), read_tensor(stored, scale_of[name])
            grid = scale_grid(f"{where}: {name}", codes.shape, scale.shape, block)
            state[name] = dequantize(codes, scale, grid).to(dtype)
    return state


def scale_grid(
    what: str, codes: tuple[int, ...], scales: tuple[int, ...], block: Sequence[int] | None
) -> tuple[int, int]:
    """Rows and columns that share a scale, for shapes of codes [..., rows, columns] and
    of scales. Raises UnsupportedModelError, naming `what`, where they do not fit."""
    lead, (rows, columns) = tuple(codes[:-2]), codes[-2:] if len(codes) > 1 else (1, codes[0])
    scales = tuple(scales)
    if block:
        blocks = (-(-rows // block[0]), -(-columns // block[1]))
        if scales == (*lead, *blocks) or (blocks == (1, 1) and scales in ((), (1,))):
            return block[0], block[1]
    # In a division into blocks, fewer scales than blocks would leave their meaning open.
    if not block or block is _DEFAULT_BLOCK:
        if all(size == 1 for size in scales) or scales in (lead, (*lead, 1), (*lead, 1, 1)):
            return rows, columns
        if scales in ((*lead, rows), (*lead, rows, 1)):
            return 1, columns
    division = f"blocks of {block[0]}x{block[1]}" if block else "one scale per tensor or row"
    raise UnsupportedModelError(
        f"{what}: its scales have shape {scales}, which does not fit codes of shape "
        f"{tuple(codes)} in {division} (weight_block_size of the quantization_config)"
    )


def dequantize(codes: torch.Tensor, scales: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """float32 weights; `grid` as `scale_grid` returns it."""
    rows, columns = codes.shape[-2:] if codes.dim() > 1 else (1, codes.shape[0])
    factors = _as_float(scales).reshape(
        *codes.shape[:-2] if scales.numel() > 1 else (), -(-rows // grid[0]), -(-columns // grid[1])
    )
    factors = factors.repeat_interleave(grid[0], -2)[..., :rows, :]
    factors = factors.repeat_interleave(grid[1], -1)[..., :columns]
    return codes.float() * (factors if codes.dim() > 1 else factors[0])


def _as_float(scales: torch.Tensor) -> torch.Tensor:
    # Exponents of two without a mantissa, as bytes (E8M0 by another name).
    if scales.dtype == torch.uint8:
        return (scales.float() - 127).exp2()
    return scales.float()


def _scale_name(where: str, name: str, stored: dict[str, Stored]) -> str:
    candidates = [name + "_scale_inv", name + "_scale"]
    if name.endswith(".weight"):
        candidates.append(name.removesuffix("weight") + "scale")
    found = [candidate for candidate in candidates if candidate in stored]
    if len(found) != 1:
        raise UnsupportedModelError(
            f"{where}: {name} is stored in {stored[name].dtype} with "
            f"{'several scales' if found else 'no scale'} ({', '.join(found or candidates)}), so "
            "its values cannot be told"
        )
    return found[0]
