"""Every key and tensor of a GGUF file is applied to the model's config, or refused by name.

transformers maps the keys that it knows for an architecture and drops the rest: rope scaling,
soft caps, windows, epsilons under another name. What a file says is set here once more,
key by key, as llama.cpp reads it; a key that stands in no table below is an error. Where a file is
silent, llama.cpp's default counts, not that of transformers' config class.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, gguf/constants.py
"""

from __future__ import annotations

import re

from transformers import LlamaConfig

from kvtool import gguf_rope
from kvtool.gguf_file import GgufFile

# Architectures whose keys and tensors are known here.
ARCHITECTURES = (
    "gemma2", "gemma3", "gpt2", "llama", "minimax-m2", "nemotron", "phi3", "qwen2", "qwen2moe",
    "qwen3", "qwen3moe", "stablelm", "starcoder2",
)  # fmt: skip

# Keys of any file that change nothing of what is computed.
HARMLESS = (
    # Names, authors, licenses, sources, the type of most tensors.
    r"general\.(?!type$|architecture$|alignment$|sampling\.).*",
    # How to choose among tokens at random; kvtool takes the best.
    r"general\.sampling\.(sequence|top_k|top_p|min_p|xtc_\w+|temp|penalty_last_n|mirostat\w*)",
    # How the file was quantized: the calibration data.
    r"quantize\.imatrix\..*|imatrix\..*",
    # Where tensors lie: the reader follows it. (Parts of a split file are refused.)
    r"split\.(no|tensors\.count)",
    r"general\.(architecture|alignment)",
)

# By _require_whole_model and apply_to_generation; gguf_tokenizer reads its own keys.
_READ_ELSEWHERE = ("general.type", "general.sampling.penalty_repeat", "split.count")

# Keys of an architecture that change nothing of what is computed.
HARMLESS_OF_ARCHITECTURE = (
    "pooling_type",  # of embeddings of whole texts
    "rope.scaling.finetuned",  # how the model was trained
)

# Key -> attributes of configs that hold it; the first that the config has is set.
_ATTRIBUTES = {
    "context_length": ("max_position_embeddings",),
    "block_count": ("num_hidden_layers",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("n_inner", "intermediate_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": (
        "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps",
    ),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "vocab_size": ("vocab_size",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_weights_norm": ("norm_topk_prob",),
}  # fmt: skip

# Architectures whose classes hold the key under an attribute that means the same.
_OF_SOME = {
    "expert_feed_forward_length": {
        "qwen2moe": "moe_intermediate_size",
        "qwen3moe": "moe_intermediate_size",
        "minimax-m2": "intermediate_size",
    },
    "expert_shared_feed_forward_length": {"qwen2moe": "shared_expert_intermediate_size"},
    "attention.sliding_window": {
        "gemma2": "sliding_window",
        "gemma3": "sliding_window",
        "phi3": "sliding_window",
        "starcoder2": "sliding_window",
    },
}

# Values that say what is computed anyway, of keys that no class has a place for.
_NEUTRAL = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.scale": (0,),
    "attention.output_scale": (1,),
    "attention.sliding_window": (0,),
    "attention.shared_kv_layers": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "moe_every_n_layers": (0, 1),
    "nextn_predict_layers": (0,),
    "residual_scale": (0, 1),
    "router_logit_softcapping": (0,),
}

# expert_gating_func: 1 softmax, 2 sigmoid; what the classes compute.
_GATING = {"qwen2moe": 1, "qwen3moe": 1, "minimax-m2": 2}

_REQUIRED = ("context_length", "block_count", "embedding_length", "attention.head_count")

_EPSILONS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")

# Every so many layers one sees everything, the others a window; llama.cpp's constants.
_WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6}

_WITHOUT_WINDOWS = ("qwen2", "qwen2moe", "qwen3", "qwen3moe")

# The models whose attention is scaled by hidden size per head, not by the head's dimension.
_SCALED_BY_HIDDEN_SIZE = {"gemma2": 46, "gemma3": 62}  # layers of the 27B


def applied(config, file: GgufFile):
    """`config`, which transformers made of `file`, with everything that the file says.

    Raises UnsupportedModelError that names each key with no place in the model.
    """
    _require_whole_model(file)
    if file.architecture == "llama" and config.model_type != "llama":
        # transformers goes by general.name; a model of that name has a window.
        config = LlamaConfig.from_dict({**config.to_dict(), "model_type": "llama"})
    vars(config).pop("_model_name_or_path", None)  # general.name
    for suffix in _REQUIRED:
        if file.get(suffix) is None:
            file.refuse(f"has no key {file.key(suffix)}")
    if not any(file.get(suffix) is not None for suffix in _EPSILONS):
        file.refuse(f"has neither {file.key(_EPSILONS[0])} nor {file.key(_EPSILONS[1])}")
    _set_defaults(config, file)
    unread = []
    for key in file.values:
        if any(re.fullmatch(pattern, key) for pattern in HARMLESS):
            continue
        prefix, _, suffix = key.partition(".")
        if key.startswith("tokenizer.") or key in _READ_ELSEWHERE:
            continue
        if prefix != file.architecture or not _apply_key(config, file, suffix):
            unread.append(key)
    if unread:
        key = unread[0]
        file.refuse(
            f"the key {key} = {_short(file.values[key])} has no place in transformers' "
            f"{type(config).__name__}"
            + (f", nor have {', '.join(unread[1:4])}" if unread[1:] else "")
            + ": the exported model would compute something else than the file says"
        )
    _set_attention(config, file)
    gguf_rope.apply(config, file)
    return config


def end_ids(file: GgufFile) -> list[int]:
    """The ids that end a generation: of the text, the turn and the message."""
    ids = [file.tokenizer(name) for name in ("eos_token_id", "eot_token_id", "eom_token_id")]
    return list(dict.fromkeys(int(token_id) for token_id in ids if token_id is not None))


def apply_to_generation(generation, file: GgufFile) -> None:
    """What the file says of generation, for the model's generation config."""
    count = len(file.tokenizer("tokens") or [])
    ids = end_ids(file)
    for token_id in ids:
        if token_id >= count > 0:
            file.refuse(f"names {token_id} as an id that ends a text, but has {count} tokens")
    generation.eos_token_id = ids or None
    penalty = file.values.get("general.sampling.penalty_repeat")
    if penalty is not None:
        generation.repetition_penalty = float(penalty)


def require_all_tensors_used(file: GgufFile, model) -> None:
    """Raises UnsupportedModelError, naming it, for a tensor that transformers would leave
    out. `model` is the class that the tensors are loaded into; it may be without weights."""
    from transformers.modeling_gguf_pytorch_utils import (
        TENSOR_PROCESSORS,
        TensorProcessor,
        get_gguf_hf_weights_map,
    )

    processor = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)(
        config=model.config.to_dict()
    )
    used = set(get_gguf_hf_weights_map(model, processor))
    used |= {name + ".weight" for name in used} | set(gguf_rope.TENSORS)
    if file.architecture == "gpt2":
        used.add("output.weight")
    unread = sorted(name for name in file.tensors if name not in used)
    if unread:
        file.refuse(
            f"{len(unread)} of its tensors would not be used, such as {', '.join(unread[:3])}: "
            f"{type(model).__name__} has no place for them"
        )


def _require_whole_model(file: GgufFile) -> None:
    if file.architecture not in ARCHITECTURES:
        file.refuse(
            f"the architecture '{file.architecture}' is not read from GGUF files (read are "
            f"{', '.join(ARCHITECTURES)}); export the original checkpoint"
        )
    kind = file.values.get("general.type", "model")
    if kind != "model":
        file.refuse(f"general.type is '{kind}', not 'model'")
    if file.values.get("split.count", 1) > 1:
        file.refuse(
            f"is part {file.values.get('split.no', 0) + 1} of {file.values['split.count']} "
            "(split.count); merge the parts with llama-gguf-split --merge"
        )


def _set_defaults(config, file: GgufFile) -> None:
    """llama.cpp's values for keys that the file leaves out."""
    heads = _number(file, "attention.head_count")
    if hasattr(config, "num_key_value_heads"):
        config.num_key_value_heads = heads
    if hasattr(config, "use_sliding_window"):
        config.use_sliding_window = False
    elif hasattr(config, "sliding_window") and file.architecture not in _WINDOW_PATTERN:
        config.sliding_window = None


def _apply_key(config, file: GgufFile, suffix: str) -> bool:
    """Whether the key was applied, or says what is computed anyway."""
    value = file.get(suffix)
    if suffix in HARMLESS_OF_ARCHITECTURE or suffix in _LATER:
        return True
    if isinstance(value, list):
        if suffix == "attention.sliding_window_pattern":
            return _has_pattern(config, value)
        value = _number(file, suffix)
    attribute = _OF_SOME.get(suffix, {}).get(file.architecture)
    if attribute is None:
        attribute = next((a for a in _ATTRIBUTES.get(suffix, ()) if hasattr(config, a)), None)
    if attribute is not None:
        off = suffix.endswith(("softcapping", "sliding_window")) and value == 0
        setattr(config, attribute, None if off else value)
        return True
    if suffix in _NEUTRAL:
        return value in _NEUTRAL[suffix]
    if suffix == "expert_gating_func":
        return value == _GATING.get(file.architecture)
    if suffix == "use_parallel_residual":
        return value == getattr(config, "use_parallel_residual", False)
    if suffix == "attention.sliding_window_pattern":
        return value == _WINDOW_PATTERN.get(file.architecture)
    if suffix == "tensor_data_layout":
        # The order of rotated rows that every llama file has.
        return file.architecture == "llama" and value == "Meta AI original pth"
    return suffix.startswith("rope.") and gguf_rope.reads(suffix)


# Keys that belong together, applied by _set_attention.
_LATER = ("attention.key_length", "attention.value_length")


def _set_attention(config, file: GgufFile) -> None:
    hidden, heads = _number(file, "embedding_length"), _number(file, "attention.head_count")
    head_dim = file.get("attention.key_length") or (hidden // heads if heads else 0)
    if head_dim < 1:
        file.refuse(
            f"{file.key('embedding_length')} is {hidden} and {file.key('attention.head_count')} "
            f"{heads}: that leaves no dimensions for a head"
        )
    value_dim = file.get("attention.value_length", head_dim)
    if value_dim != head_dim:
        file.refuse(
            f"{file.key('attention.value_length')} is {value_dim}, but "
            f"{file.key('attention.key_length')} {head_dim}: the class has one for both"
        )
    if head_dim != hidden // heads or getattr(config, "head_dim", None) is not None:
        config.head_dim = head_dim
    if file.architecture in _SCALED_BY_HIDDEN_SIZE:
        by_hidden = _number(file, "block_count") == _SCALED_BY_HIDDEN_SIZE[file.architecture]
        config.query_pre_attn_scalar = hidden // heads if by_hidden else head_dim
    pattern = _WINDOW_PATTERN.get(file.architecture)
    if pattern:
        config.layer_types = [
            "sliding_attention" if (layer + 1) % pattern else "full_attention"
            for layer in range(config.num_hidden_layers)
        ]
    elif getattr(config, "layer_types", None) and file.architecture in _WITHOUT_WINDOWS:
        config.layer_types = ["full_attention"] * config.num_hidden_layers


def _has_pattern(config, pattern: list) -> bool:
    kinds = getattr(config, "layer_types", None) or []
    return [kind == "sliding_attention" for kind in kinds] == [bool(value) for value in pattern]


def _number(file: GgufFile, suffix: str):
    """A value that may be given for each layer; all have to be equal."""
    value = file.get(suffix)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        file.refuse(f"the key {file.key(suffix)} differs from layer to layer: {_short(value)}")
    return value[0]


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
