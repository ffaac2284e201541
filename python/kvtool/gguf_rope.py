"""Rotary positions as a GGUF file describes them, in a transformers config.

llama.cpp rotates by position * base^(-2i/d) / factor[i], where the factors come from a tensor
(rope_freqs.weight of Llama 3.1; rope_factors_short and _long of longrope), and on top of that
scales by the keys rope.scaling.*: by a number (linear), or by YaRN.
"""

from __future__ import annotations

import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kvtool.gguf_file import GgufFile

# A rope type of kvtool: the plain frequencies, each divided by a factor of its own.
FACTORS_TYPE = "kvtool_factors"

_FREQS, _SHORT, _LONG = (
    "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight",
)  # fmt: skip
TENSORS = (_FREQS, _SHORT, _LONG)

_KEYS = frozenset(
    {
        "rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear",
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor",
        "rope.scaling.original_context_length", "rope.scaling.yarn_log_multiplier",
        "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    }
)  # fmt: skip

# Classes that rotate a part of a head, as partial_rotary_factor says.
_ROTATE_A_PART = ("nemotron", "phi3", "stablelm")

_DEFAULT_BASE = 10000.0  # llama.cpp's


def reads(suffix: str) -> bool:
    """Whether `apply` reads the key of an architecture."""
    return suffix in _KEYS


def apply(config, file: GgufFile) -> None:
    """Sets the rope parameters of `config`. Raises UnsupportedModelError for keys that
    transformers cannot follow."""
    ROPE_INIT_FUNCTIONS[FACTORS_TYPE] = _divided_frequencies
    if file.architecture == "gpt2":
        _refuse_any(file)
        return
    parameters = {"rope_type": "default", "rope_theta": _base(file, "rope.freq_base")}
    head_dim = file.get("attention.key_length") or (
        file.get("embedding_length") // config.num_attention_heads
    )
    rotated = file.get("rope.dimension_count", head_dim)
    if file.architecture == "minimax-m2":
        config.rotary_dim = rotated
        parameters["partial_rotary_factor"] = rotated / head_dim
    elif file.architecture in _ROTATE_A_PART:
        parameters["partial_rotary_factor"] = rotated / head_dim
        config.partial_rotary_factor = rotated / head_dim
    elif rotated != head_dim:
        file.refuse(
            f"{file.key('rope.dimension_count')} is {rotated} of {head_dim} dimensions, but "
            f"{type(config).__name__} rotates all"
        )
    parameters |= _scaling(config, file, rotated)
    if file.architecture == "gemma3":
        # Layers with a window rotate on their own, without scaling.
        local = {"rope_type": "default", "rope_theta": _base(file, "rope.freq_base_swa")}
        config.rope_parameters = {"full_attention": parameters, "sliding_attention": local}
        return
    local = file.get("rope.freq_base_swa")
    if local is not None and local != parameters["rope_theta"]:
        file.refuse(
            f"{file.key('rope.freq_base_swa')} is {local}, but the class has one for all layers"
        )
    config.rope_parameters = parameters
    if hasattr(config, "rope_theta"):
        config.rope_theta = parameters["rope_theta"]


def _scaling(config, file: GgufFile, rotated: int) -> dict:
    """The rope type and its parameters."""
    factor = file.get("rope.scaling.factor", file.get("rope.scale_linear", 0)) or 1.0
    kind = file.get("rope.scaling.type", "linear")  # llama.cpp's default, with factor 1
    tensors = [name for name in TENSORS if name in file.tensors]
    if tensors:
        for name in tensors:
            if len(file.array(name)) != rotated // 2:
                file.refuse(
                    f"the tensor {name} has not {rotated // 2} values, one for two dimensions"
                )
        if factor != 1 and kind in ("linear", "yarn"):
            file.refuse(
                f"{file.key('rope.scaling.factor')} is {factor} beside the tensor {tensors[0]}"
            )
        if tensors == [_FREQS] and kind != "longrope":
            _require_neutral(file, "rope.scaling.attn_factor", 1)
            return {"rope_type": FACTORS_TYPE, "factors": _list(file, _FREQS)}
        if tensors == [_SHORT, _LONG]:
            return _longrope(config, file)
        file.refuse(f"has the tensors {', '.join(tensors)}, of which one use is not known")
    if kind == "longrope":
        file.refuse(
            f"{file.key('rope.scaling.type')} is longrope, but {_SHORT} and {_LONG} are missing"
        )
    _require_neutral(file, "rope.scaling.attn_factor", 1)
    _require_neutral(file, "rope.scaling.yarn_attn_factor", 1)
    if kind == "yarn":
        return _yarn(config, file, factor)
    if kind not in ("none", "linear"):
        file.refuse(f"{file.key('rope.scaling.type')} is '{kind}', which is not known")
    if kind == "none" or factor == 1:
        return {}
    return {"rope_type": "linear", "factor": float(factor)}


def _yarn(config, file: GgufFile, factor: float) -> dict:
    _require_neutral(file, "rope.scaling.yarn_log_multiplier", 0)
    _require_neutral(file, "rope.scaling.yarn_ext_factor", -1, 1)
    original = file.get("rope.scaling.original_context_length", config.max_position_embeddings)
    return {
        "rope_type": "yarn",
        "factor": float(factor),
        "original_max_position_embeddings": int(original),
        "beta_fast": float(file.get("rope.scaling.yarn_beta_fast", 32.0)),
        "beta_slow": float(file.get("rope.scaling.yarn_beta_slow", 1.0)),
    }


def _longrope(config, file: GgufFile) -> dict:
    original = file.get("rope.scaling.original_context_length")
    if not original:
        file.refuse(
            f"has no key {file.key('rope.scaling.original_context_length')}, which longrope needs"
        )
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = int(original)
    return {
        "rope_type": "longrope",
        "short_factor": _list(file, _SHORT),
        "long_factor": _list(file, _LONG),
        "original_max_position_embeddings": int(original),
        "attention_factor": float(file.get("rope.scaling.attn_factor", 1.0)),
    }


def _divided_frequencies(config, device=None, seq_len=None, layer_type=None):
    """As transformers' functions of rope types: frequencies and the attention factor."""
    parameters = config.rope_parameters
    if layer_type is not None:
        parameters = parameters[layer_type]
    factors = torch.tensor(parameters["factors"], dtype=torch.float32)
    size = 2 * len(factors)
    plain = parameters["rope_theta"] ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    return ((1.0 / plain) / factors).to(device), 1.0


def _refuse_any(file: GgufFile) -> None:
    for suffix in sorted(_KEYS):
        if file.get(suffix) is not None:
            file.refuse(f"the key {file.key(suffix)} is set, but the model rotates nothing")
    for name in TENSORS:
        if name in file.tensors:
            file.refuse(f"has the tensor {name}, but the model rotates nothing")


def _require_neutral(file: GgufFile, suffix: str, *neutral: float) -> None:
    value = file.get(suffix)
    if value is not None and value not in neutral:
        file.refuse(f"the key {file.key(suffix)} = {value} is not followed by transformers")


def _base(file: GgufFile, suffix: str) -> float:
    return float(file.get(suffix, _DEFAULT_BASE))


def _list(file: GgufFile, tensor: str) -> list[float]:
    return [float(value) for value in file.array(tensor)]
