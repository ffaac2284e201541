"""What a config.json sets must be read or refused.

transformers keeps keys that a config class does not know as attributes that nobody reads. Here
each of them is read by the class after all, or changes nothing, or is known to be harmless, or
is an error where it is one by which other classes change what they compute; the rest is named in
a warning.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from kvtool import class_source, rope
from kvtool.errors import UnsupportedModelError

# Keys that may be left unread, whatever their value: pattern of the whole name, and why.
HARMLESS = (
    # Where a checkpoint comes from, and with what it was made.
    r"_.*|.*_version|version|auto_map|custom_pipelines|architectures|model_type|name|name_or_path"
    r"|model_name|base_model|library|transformers\.js_config|unsloth_.*|is_llama_config|license",
    # How numbers are stored, where they are computed, and what a library uses for it.
    r"(torch_)?dtype|.*_dtype|quantization(_config)?|use_flash_attn|use_.*kernels?|_?attn_impl.*"
    r"|attn_implementation|use_cache|cache_implementation|use_mem_eff_path|tensor_parallel.*"
    r"|pretraining_tp|ep_size|fp32_.*|.*_(in_)?fp32|init_device|gradient_checkpointing|use_xla"
    r"|.*_parallel_embedding|reorder_and_upcast_attn|device_map|low_cpu_mem_usage|use_bfloat16",
    # Training: dropouts, initial values, losses, tasks with labels.
    r".*(dropout|_pdrop|_drop|layerdrop|dropout_(p|prob|rate))|.*init.*_(range|std|factor|scale)"
    r"|init_std|initializer_.*|.*(loss|jitter).*|.*_loss_(coef|alpha|weight)|aux_.*|seq_aux"
    r"|output_router_logits|.*label.*|num_choices|problem_type|finetuning_task|task_specific_params"
    r"|rescale_prenorm_residual|summary_.*|classifier_.*|mask_(feature|time)_.*|training.*"
    r"|mtp_.*|num_mtp_.*|use_mtp|num_nextn_predict_layers|is_training|max_loras?",
    # Tokens: they are fed from outside; a vocabulary is as large as its tensors.
    r".*_tokens?(_ids?|_index)?|.*_token_ids?|(bos|eos|pad|unk|mask)_index|prefix|tokenizer_.*"
    r"|vocab_size.*|.*_vocab_size|org_vocab_size|tie_.*|share_.*embeddings?|use_embedding_sharing",
    # Sizes, biases and norms decide which tensors there are and of what shape, and every
    # tensor of a checkpoint is used or refused by its name.
    r".*_(size|dim|dims|rank|multiple_of)|.*_bias|bias|no_bias|use_bias|.*(qk|q|k)_?(layer)?norm"
    r"|qk_norm_type|d_model|d_inner|d_ff|d_kv|ffn_.*|n_inner|n_embd|kv_channels|head_dim"
    r"|first_k_dense_replace|mlp_only_layers|mlp_layer_types|moe_layers|decoder_sparse_step"
    r"|.*num_(local_|routed_|shared_)?experts|n_(routed|shared)_experts|num_shared_expert.*",
    # The most positions a model was made for.
    r"max_seq(uence)?_len(gth)?|seq_len(gth)?|n_ctx|n_positions|(model_)?max_length|block_size"
    r"|initial_context_length|max_window_layers|max_position_embeddings|max_target_positions"
    r"|original_max_position_embeddings",
    # What a caller may ask a model to return.
    r"output_.*|return_.*|use_return_dict|is_decoder|is_encoder_decoder|num_logits_to_keep"
    r"|chunk_size_feed_forward|add_pooling_layer",
)

# Keys by which classes of transformers change what they compute without another tensor:
# pattern of the whole name, and the value at which they change nothing.
CHANGING: tuple[tuple[str, float | None], ...] = (
    # Which positions a layer sees.
    (r"(sliding|attention|local)_window(_size)?|window_size|sliding_window_pattern|swa_.*"
     r"|local_attention|attention_chunk_size|use_sliding_window|dual_chunk_attention_config"
     r"|prefix_dense_sliding_window_pattern|global_attn_every_n_layers|local_layer_ids", None),
    (r"layer_types|layers_block_type|block_types|attn_layer_(period|offset)|attn_layer_indices"
     r"|attn_type_list|attention_types|attn_layers|hybrid_layer_pattern|full_attn_idxs", None),
    (r"use_bidirectional_attention|prefix_lm|num_kv_shared_layers", None),
    # Caps and factors.
    (r".*soft_?cap(ping)?|clip_qkv|swiglu_limit|swiglu_alpha|altup_coef_clip", None),
    (r".*(embedding|residual|attention|logits?|key|width|lm_head|mlp|ssm|_in|_out)_multipliers?"
     r"|(full_attn|linear_attn|mlp)_(alpha|beta)_factor", 1),
    (r"logits?_scal(e|ing)|attn_scale|attention_scale|attention_value_scale|scale_(emb|depth)"
     r"|embedding_scale|embed_scale|scale_embeddings?|rescale_every|rescale_embeddings"
     r"|(moe_)?routed_scaling_factor|route_scale|router_scaling_factor", 1),
    (r"query_pre_attn_scalar|scale_attn_by_.*|attn_temperature_tuning|floor_scale|log_scaling_.*"
     r"|dim_model_base|mup_enabled|use_mup|activation_sparsity_pattern", None),
    # Positions.
    (r"partial_rotary_factor|rotary_pct|rotary_percent(age)?|rope_pct|rope_percent", 1),
    (r"rope_(scaling|parameters|theta|interleaved?|local_base_freq)|rotary_(dim|emb_base|base)"
     r"|rotary_(interleaved|value)|compress_rope_theta|layer_rope_theta|use_mem_rope", None),
    (r"rotary_scaling_factor|rope_scaling_factor|rope_factor", 1),
    (r"no_rope_layers|no_rope_layer_interval|nope_layer_interval|alibi|use_alibi"
     r"|position_embedding_type|sinusoidal_embeddings", None),
    # The order of a block.
    (r"use_parallel_residual|parallel_attn|apply_residual_connection_post_layernorm"
     r"|do_layer_norm_before|attention_k_eq_v|moe_apply_router_weight_on_input", None),
)  # fmt: skip
# Names for the same thing: the class reads one of them, and a file that has another instead
# leaves the class with its default.
SAME = (
    ("hidden_act", "hidden_activation", "activation_function", "activation", "mlp_hidden_act"),
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon",
     "layernorm_epsilon"),
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"),
    ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "multi_query_group_num"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k",
     "top_k_experts", "moe_top_k"),
    ("rope_theta", "rotary_emb_base", "rotary_base", "rope_base"),
    ("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent", "rotary_percent"),
    ("sliding_window", "sliding_window_size", "attention_window_size", "window_size"),
    ("routed_scaling_factor", "route_scale", "router_scaling_factor"),
)  # fmt: skip

# What a class computes with though it does not read the key that checkpoints name it by.
BUILT_IN = {
    "deepseek_v2": {"scoring_func": "softmax", "moe_layer_freq": 1},
    "deepseek_v3": {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1},
    "cohere2": {"rotary_pct": 1.0, "position_embedding_type": "rope_gptj",
                "use_parallel_block": True, "use_gated_activation": True,
                "order_of_interleaved_layers": "local_attn_first", "layer_switch": 4},
    "gpt_oss": {"swiglu_limit": 7.0},
    "minimax_m2": {"scoring_func": "sigmoid", "use_routing_bias": True},
    "phi3": {"full_attn_mod": 1, "interpolate_factor": 1},
    "starcoder2": {"norm_type": "layer_norm", "mlp_type": "default", "scale_attn_weights": True},
}  # fmt: skip

_NOTHING = (None, False, 0, "", [], {})


@dataclass
class Unread:
    """Keys of a config.json that the class does not read, each with what is to be said of it."""

    refused: dict[str, str] = field(default_factory=dict)
    uncertain: dict[str, str] = field(default_factory=dict)


def require_read(where: str, raw: dict, config) -> list[str]:
    """Raises UnsupportedModelError for keys of config.json (`raw`) that `config`'s class does not
    read and that would change what is computed; returns those that may."""
    found = unread(raw, config)
    if found.refused:
        named = ", ".join(found.refused.values())
        raise UnsupportedModelError(
            f"{where}: config.json sets {named}: {_class_name(config)} does not read that, so it "
            "would compute something else than what the file describes; use a checkpoint whose "
            "config.json is written for this class and this version of transformers"
        )
    return list(found.uncertain.values())


def warning(keys: list[str]) -> str:
    """One line on what `require_read` returned."""
    return (
        "config.json sets keys that transformers does not read for this model type and that kvtool "
        f"does not know: {', '.join(keys)}; the export is the model without them"
    )


def unread(raw: dict, config) -> Unread:
    """The keys of `raw`, the content of config.json, that nothing reads."""
    found = Unread()
    _add_contradictions(raw, config, found)
    for key, value in raw.items():
        if not _is_read(key, config) and not _is_built_in(key, value, config):
            _judge(key, value, raw, config, found)
        elif _is_declared_for_nothing(key, value, config):
            found.refused[key] = f"{key} = {_short(value)}"
    for key, value in rope.unknown_keys(config).items():
        found.uncertain[key] = f"{key} = {_short(value)} in the rope parameters"
    return found


def _judge(key: str, value, raw: dict, config, found: Unread) -> None:
    if value is None:
        return
    text = f"{key} = {_short(value)}"
    own = _own_name(key, config)
    if own is not None:
        used = _values_of(own, config)
        if value not in used:
            # A file that has the class's own name, too, may well mean that one.
            kind = found.uncertain if own in raw and own != key else found.refused
            kind[key] = f"{text} (used is {own} = {_short(used[0])})"
    elif _changes(key, value, raw, config):
        found.refused[key] = text
    elif value not in _NOTHING and not _is_harmless(key) and not _is_changing(key):
        found.uncertain[key] = text


def _add_contradictions(raw: dict, config, found: Unread) -> None:
    """Pairs of keys that name the same thing and differ: one of them is not read."""
    for alias, name in config.attribute_map.items():
        first, second = raw.get(alias), raw.get(name)
        if first not in _NOTHING and second not in _NOTHING and first != second:
            found.refused[alias] = f"{alias} = {_short(first)} and {name} = {_short(second)}"
    parameters = raw.get("rope_parameters") or {}
    if parameters and raw.get("rope_scaling"):  # of which transformers takes the latter
        used = getattr(config, "rope_parameters", None) or {}
        for key, value in parameters.items():
            if used.get(key) != value:
                found.refused["rope_parameters"] = (
                    f"rope_scaling and rope_parameters with another {key} ({_short(value)})"
                )
    for names in SAME:
        for alias in names:
            first, second = raw.get(alias), parameters.get(names[0])
            if first not in _NOTHING and second not in _NOTHING and first != second:
                found.refused[alias] = (
                    f"{alias} = {_short(first)} and {names[0]} = {_short(second)} in rope_parameters"
                )


def _is_read(key: str, config) -> bool:
    if key == "rope_scaling":  # an older name
        key = "rope_parameters"
    if key == "rope_parameters":  # which every config gets that a file gives it to
        return _is_declared(key, config) or class_source.names(config, key)
    if key == "layer_types":  # some name it only to complain of it
        return _is_declared(key, config)
    # What a class takes from its arguments by hand does not become an attribute.
    if _is_declared(key, config) or hasattr(type(config), key) or key not in vars(config):
        return True
    if key == "partial_rotary_factor" and rope.parameter_sets(config):
        return True  # transformers puts it among the rope parameters, which are looked at
    return class_source.names(config, key)


def _is_declared(key: str, config) -> bool:
    return key in config.attribute_map or key in {known.name for known in fields(config)}


def _is_declared_for_nothing(key: str, value, config) -> bool:
    """Whether the class has a field `key` that none of its code reads, and another value there
    than the one that it always computes with."""
    default = next((known.default for known in fields(config) if known.name == key), MISSING)
    if default is MISSING or value in (None, default) or _is_harmless(key) or key.startswith("rope_"):
        return False
    aliases = [a for pair in config.attribute_map.items() if key in pair for a in pair]
    return not any(
        class_source.names(config, name) or class_source.shared_code_names(name)
        for name in (key, *aliases)
    )


def _is_harmless(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in HARMLESS)


def _own_name(key: str, config) -> str | None:
    """The name by which the class reads what `key` names, None if there is no such."""
    of_rope = {name for parameters in rope.parameter_sets(config) for name in parameters}
    names = next((names for names in SAME if key in names), (key,))
    return next((name for name in names if name in of_rope or _is_declared(name, config)), None)


def _values_of(name: str, config) -> list:
    """What the class computes with: one value, or one for each kind of layer."""
    of_rope = [p[name] for p in rope.parameter_sets(config) if name in p]
    return of_rope or [_get(config, name)]


def _is_built_in(key: str, value, config) -> bool:
    of_type = BUILT_IN.get(config.model_type, {})
    return key in of_type and of_type[key] == value


def _is_changing(key: str) -> bool:
    return any(re.fullmatch(pattern, key) for pattern, _ in CHANGING)


def _changes(key: str, value, raw: dict, config) -> bool:
    neutral = next((none for pattern, none in CHANGING if re.fullmatch(pattern, key)), ...)
    if neutral is ...:
        return False
    if value in _NOTHING or value == neutral:
        return False
    if "window" in key or key == "local_attention":
        longest = getattr(config, "max_position_embeddings", None)
        unused = raw.get("use_sliding_window") is False
        return not unused and not (isinstance(value, int) and longest and value >= longest)
    if key == "query_pre_attn_scalar":
        return value != _head_dim(config)
    if key == "rotary_dim":
        factors = [p.get("partial_rotary_factor") or 1 for p in rope.parameter_sets(config)]
        return not any(value == int((_head_dim(config) or 0) * factor) for factor in factors)
    if key == "position_embedding_type":
        return "relative" in str(value)
    if isinstance(value, list):  # of layers: rotary positions in each, the same kind each
        return not all(entry in (1, True, "attention", "full_attention") for entry in value)
    return True


def _head_dim(config) -> int | None:
    size, heads = _get(config, "hidden_size"), _get(config, "num_attention_heads")
    return _get(config, "head_dim") or (size // heads if size and heads else None)


def _get(config, name: str):
    """None for what the config lacks, or has for single layers only."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers' error for the latter
        return None


def _class_name(config) -> str:
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return found.__name__ if found else type(config).__name__


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
