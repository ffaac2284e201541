"""The fingerprint of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

# Large tensors are hashed in pieces: a CUDA tensor is then never copied to the
# host as a whole.
_PIECE_ELEMENTS = 1 << 24


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 in hex over a state dict, independent of device and storage layout.

    For each entry in order of its name: the line "NAME DTYPE D0,D1,...\\n" in UTF-8
    (dtype without "torch."), then the elements in row-major order as raw bytes of
    this machine, which is little-endian wherever torch runs. Tied weights count
    under each of their names.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        shape = ",".join(str(size) for size in tensor.shape)
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {shape}\n".encode())
        flat = tensor.reshape(-1)
        for start in range(0, flat.numel(), _PIECE_ELEMENTS):
            piece = flat[start : start + _PIECE_ELEMENTS].cpu().contiguous()
            digest.update(piece.view(torch.uint8).numpy())
    return digest.hexdigest()
