"""What a checkpoint holds must be used or refused.

transformers drops tensors that a class has no place for, fills those that are missing, and
reads an integer as a weight where nothing tells it otherwise, all with a line in its log. Here
each tensor of the files is used, or is known to be harmless, or is an error that names it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import cached_file

from kvtool.errors import EnvironmentFailure, UnsupportedModelError

# In the order in which transformers looks for them; an index names the files beside it.
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                 "pytorch_model.bin.index.json")  # fmt: skip

# Weights beside those that are read, which hold the same model in another form.
_SAME_IN_ANOTHER_FORM = re.compile(r"consolidated.*\.safetensors|model\.[a-z0-9_]+\.safetensors")

_ANY_SHAPE, _MASK = "any", "mask"

# Tensors that may be left unread: name, shape, and why nothing is lost.
HARMLESS = (
    # Rotary frequencies, which transformers computes from the config.
    (r"rotary_(pos_)?emb\.(inv_freq|cos_cached|sin_cached)$", _ANY_SHAPE),
    # 0, 1, 2, ...
    (r"(^|\.)position_ids$", _ANY_SHAPE),
    # The triangle of the causal mask, and the number that it puts in.
    (r"(^|\.)(attn|attention|crossattention|self_attn)\.(bias|masked_bias)$", _MASK),
)

# Scales of activations and of the KV cache beside codes: kvtool computes both in --dtype.
_OF_ACTIVATIONS = re.compile(r"\.(input|output|k|v|q)_(scale|zero_point|global_scale)$")

# What a class of transformers says that it leaves out. Only these are believed:
HARMLESS_IF_LEFT_OUT_BY_CLASS = (
    # Heads that guess several tokens ahead; the next token does not pass through them.
    r"(^|\.)mtp(_layers)?[._]",
    # Eyes and ears of a model whose text part is exported.
    r"^(model\.)?(visual|vision_tower|vision_model|audio_tower)\.",
)


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint, as its file describes it."""

    file: Path
    dtype: str  # as safetensors spells it: "BF16", "F8_E4M3"
    shape: tuple[int, ...]


def weight_files(location: str, revision: str | None) -> list[Path]:
    """The files that transformers reads the weights from; empty if it will find none."""
    for name in _WEIGHT_FILES:
        found = _fetch(location, name, revision)
        if found is None:
            continue
        if not name.endswith(".json"):
            return [found]
        shards = _shards(found)
        return [path for path in (_fetch(location, shard, revision) for shard in shards) if path]
    return []


def stored_tensors(files: list[Path]) -> dict[str, Stored]:
    """What the files hold, by name; nothing but headers is read from safetensors files."""
    stored: dict[str, Stored] = {}
    for path in files:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():
                    part = opened.get_slice(name)
                    stored[name] = Stored(path, part.get_dtype(), tuple(part.get_shape()))
        else:
            tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            for name, tensor in tensors.items():
                if isinstance(tensor, torch.Tensor):
                    stored[name] = Stored(path, _spelled(tensor.dtype), tuple(tensor.shape))
    return stored


def read_tensor(stored: dict[str, Stored], name: str) -> torch.Tensor:
    """One tensor as it is stored. Raises UnsupportedModelError for a file that is no
    safetensors: those of quantized checkpoints are."""
    path = stored[name].file
    if path.suffix != ".safetensors":
        raise UnsupportedModelError(f"{path}: codes are read from safetensors files only")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        return opened.get_tensor(name)


def require_no_other_weights(location: str, files: list[Path]) -> None:
    """Refuses a directory with weights that nothing reads: an adapter, a stray shard."""
    directory = Path(location)
    if not directory.is_dir():
        return
    read = {path.name for path in files}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("adapter_"):
            raise UnsupportedModelError(
                f"{path}: the folder holds an adapter, which would not be applied; merge it into "
                "the weights, or remove the adapter_* files to export the base model"
            )
        if path.suffix != ".safetensors" or path.name in read:
            continue
        if not _SAME_IN_ANOTHER_FORM.fullmatch(path.name):
            raise UnsupportedModelError(
                f"{path}: these weights would not be read (those of {min(read, default='none')} "
                "are); remove the file if it does not belong to the model"
            )


def require_all_used(
    where: str, loading: dict, stored: dict[str, Stored], model, with_codes: bool = False
) -> None:
    """Raises UnsupportedModelError for tensors that the model has no place for or that
    have another shape, EnvironmentFailure for weights that the checkpoint lacks.

    `loading` is transformers' loading info; `with_codes` says that weights were quantized.
    """
    _refuse_shapes(where, loading.get("mismatched_keys", ()))
    missing = sorted(loading.get("missing_keys", ()))
    if missing:
        raise EnvironmentFailure(
            f"{where}: the checkpoint lacks {len(missing)} weights of the model, such as "
            f"{missing[0]}; is it a checkpoint of this architecture?"
        )
    unread = sorted(
        name
        for name in loading.get("unexpected_keys", ())
        if not _is_harmless(name, stored) and not (with_codes and _OF_ACTIVATIONS.search(name))
    )
    unread += _left_out_by_class(stored, model)
    if unread:
        raise UnsupportedModelError(
            f"{where}: {_count(unread, 'tensor')} of the checkpoint would not be used, such as "
            f"{', '.join(unread[:3])}: {type(model).__name__} as config.json describes it has no "
            "place for them, so it would compute something else than the checkpoint's model"
        )


def require_shapes(where: str, state: dict[str, torch.Tensor], model) -> None:
    """Raises UnsupportedModelError where a tensor of `state` has another shape than the
    model's. (transformers does not look at the shapes of what was quantized.)"""
    wanted = model.state_dict()
    _refuse_shapes(
        where,
        [
            (name, tensor.shape, wanted[name].shape)
            for name, tensor in state.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ],
    )


def _refuse_shapes(where: str, mismatched) -> None:
    mismatched = sorted(mismatched)
    if mismatched:
        name, found, wanted = mismatched[0]
        raise UnsupportedModelError(
            f"{where}: the shapes of {_count(mismatched, 'weight')} in the checkpoint are not those "
            f"of the config, such as {name}: {tuple(found)}, but {tuple(wanted)} by the config"
        )


def require_floating_point(where: str, stored: dict[str, Stored], model) -> None:
    """Refuses weights that are stored as codes while nothing says what a code stands for."""
    state = model.state_dict()
    for name, tensor in sorted(stored.items()):
        if tensor.dtype in ("F64", "F32", "F16", "BF16", "BOOL") or _is_harmless(name, stored):
            continue
        if name not in state or state[name].is_floating_point():
            raise UnsupportedModelError(
                f"{where}: {name} is stored as {tensor.dtype}, but config.json has no "
                "quantization_config that says how such codes are scaled; add the one that the "
                "checkpoint was made with, or use a checkpoint in floating point"
            )


def _is_harmless(name: str, stored: dict[str, Stored]) -> bool:
    for pattern, shape in HARMLESS:
        if re.search(pattern, name):
            found = stored.get(name)
            return shape == _ANY_SHAPE or found is None or _is_mask(found.shape)
    return False


def _is_mask(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 or all(size == 1 for size in shape)


def _left_out_by_class(stored: dict[str, Stored], model) -> list[str]:
    """Tensors that transformers' class leaves out without a word, but that count."""
    patterns = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    if not patterns:
        return []
    layers = getattr(model.config, "num_hidden_layers", None)
    believed = [*HARMLESS_IF_LEFT_OUT_BY_CLASS, rf"(^|\.)layers\.{layers}\."]
    known = model.state_dict()
    base = model.base_model_prefix + "."
    return sorted(
        name
        for name in stored
        if any(re.search(pattern, name) for pattern in patterns)
        and not {name, base + name, name.removeprefix(base)} & known.keys()
        and not _is_harmless(name, stored)
        and not any(re.search(pattern, name) for pattern in believed)
    )


def _fetch(location: str, name: str, revision: str | None) -> Path | None:
    directory = Path(location)
    if directory.is_dir():
        return directory / name if (directory / name).is_file() else None
    found = cached_file(
        location,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None


def _shards(index: Path) -> list[str]:
    import json

    try:
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFailure(f"{index}: not an index of weight files: {error}") from None


def _spelled(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    names = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
    return names.get(
        name, name.replace("uint", "U").replace("int", "I").replace("float", "F").upper()
    )


def _count(names: list, word: str) -> str:
    return f"{len(names)} {word}" + ("s" if len(names) != 1 else "")
