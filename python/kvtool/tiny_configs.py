"""A tiny configuration for every causal language model type of transformers.

The families of `tiny_models` have theirs by hand. For all other types it comes from the
defaults of the type's config class: whatever makes a model large is known by the name of its
field and becomes small, each kind of layer stays, once. CORRECTIONS holds what some types
need beyond that.
"""

from __future__ import annotations

import copy
import re

from transformers import CONFIG_MAPPING, PreTrainedConfig

from kvtool import tiny_models
from kvtool.tiny_models import MAX_POSITIONS, SLIDING_WINDOW, VOCAB_SIZE

_HEADS, _KV_HEADS = 4, 2

# Name of a field with a whole number -> what it becomes; the first that matches counts.
_RULES: tuple[tuple[str, int], ...] = (
    (r"(^|_)vocab_size($|_)|_vocab$", VOCAB_SIZE),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_target_positions|context_length"
     r"|model_max_length|attention_chunk_size", MAX_POSITIONS),
    (r"(sliding_window|window_size|local_attention|sliding_window_size)$", SLIDING_WINDOW),
    (r"(moe|expert|shared_expert|moe_shared_expert)_(intermediate|ffn_hidden)_size"
     r"|^shared_intermediate_size", 48),
    (r"intermediate_size|(^|_)ffn_dim|ffn_hidden_size|^d_inner|^dim_ff$|^dff$|feed_forward_size",
     96),
    (r"_multiple_size", 2),
    (r"per_layer_input$|_embed_proj_dim$|_rank$|lora_rank", 16),
    (r"hidden_size(_global)?$|^d_model$|^n_embd$|^emb(edding)?_dim$|embedding_size$|lru_width", 64),
    (r"query_pre_attn_scalar", 24),
    (r"qk_head_dim", 32),
    (r"^rotary_dim", 8),
    (r"head_dim|dim_head|d_head|head_size|kv_channels|mamba_headdim", 16),
    (r"(^|_)(num_)?experts_per_to(p|k|ken)|moe_topk|^moe_k$|num_experts_per_tok", 2),
    (r"(^|_)num_(local_)?experts|n_routed_experts|moe_num_experts|zero_expert_num", 8),
    (r"^n_group$", 2),
    (r"^topk_group$|first_k_dense_replace", 1),
    (r"index_topk$", 8),
    (r"num_key_value_heads|num_kv_heads|num_query_groups", _KV_HEADS),
    (r"(^|_)(n|num)_heads$|n_head$|attention_heads$|index_n_heads|linear_num_\w+_heads", _HEADS),
    (r"d_state|state_size", 8),
    (r"chunk_size$|block_size$", 8),
    (r"^(n|num)_(hidden_)?layers$|^n_layer$|coder_layers$|num_blocks", 2),
)  # fmt: skip

_OF_EVERY_CONFIG = PreTrainedConfig().to_dict().keys() - {"is_encoder_decoder", "model_type"}
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")

# Type -> what its tiny config needs beyond the rules.
_GLOBAL_HEADS = {"per_layer_config": {"1": {"head_dim": 32}}}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
_DRAFT = dict(model_type="gemma4_text", hidden_size_per_layer_input=0, vocab_size_per_layer_input=0,
              num_hidden_layers=2, num_kv_shared_layers=2, per_layer_config={})  # fmt: skip
CORRECTIONS: dict[str, dict] = {
    "bamba": dict(mamba_n_heads=4, mamba_d_head=32, mamba_n_groups=1),
    "cohere_compass_text": dict(
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"sliding_attention": _ROPE, "full_attention": _ROPE},
    ),
    "dbrx": dict(
        attn_config=dict(kv_n_heads=_KV_HEADS, rope_theta=10000.0, clip_qkv=8.0)
    ),
    "deepseek_v2": dict(num_experts_per_tok=2),
    "dots1": dict(n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2),
    "falcon_h1": dict(mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16),
    "gemma4_assistant": dict(text_config=_DRAFT),
    "gemma4_text": _GLOBAL_HEADS,
    "gemma4_unified_text": _GLOBAL_HEADS,
    "granitemoehybrid": dict(mamba_n_heads=4, mamba_d_head=32),
    "hrm_text": dict(num_layers_per_stack=None),
    "hunyuan_v1_dense": dict(head_dim=16),
    "hunyuan_v1_moe": dict(head_dim=16),
    "lfm2_moe": dict(layer_types=["linear_attention", "full_attention"], num_dense_layers=1),
    "mamba2": dict(num_heads=8, n_groups=2),
    "ministral": dict(head_dim=16),
    # Its window cuts the cache and not the mask; as in its defaults, no position is beyond it.
    "moshi": dict(sliding_window=MAX_POSITIONS),
    "nemotron": dict(num_key_value_heads=_KV_HEADS),
    "recurrent_gemma": dict(num_hidden_layers=3),
    "reformer": dict(attn_layers=["local", "lsh"], axial_pos_shape=[16, 16],
                     axial_pos_embds_dim=[16, 48], num_buckets=8),
    "xmod": dict(default_language="en_XX"),
}  # fmt: skip

# Type -> the configs that its class cannot do without.
_SOUND = {"text_encoder": {"model_type": "t5"}, "audio_encoder": {"model_type": "encodec"}}
PARTS: dict[str, dict] = {
    "gemma4_assistant": {"text_config": _DRAFT},
    "gemma4_unified_assistant": {"text_config": {"model_type": "gemma4_unified_text"}},
    "musicgen": {**_SOUND, "decoder": {"model_type": "musicgen_decoder"}},
    "musicgen_melody": {**_SOUND, "decoder": {"model_type": "musicgen_melody_decoder"}},
}


def tiny_config(model_type: str):
    """A tiny transformers config of `model_type`.

    Raises KeyError for a type that transformers does not know, and what the type's class
    raises for settings that do not fit together.
    """
    config_class = CONFIG_MAPPING[model_type]
    for name, family in tiny_models.FAMILIES.items():
        if family.config_class == config_class.__name__:
            return tiny_models.config_of(name)
    defaults = config_class(**copy.deepcopy(PARTS.get(model_type, {}))).to_dict()
    settings = _shrunk(defaults)
    del settings["model_type"]
    return config_class(**settings)


def _shrunk(defaults: dict) -> dict:
    """The type and its settings by name, small where `defaults` are large."""
    settings = {
        name: _shrunk(value) if _is_config(value) else _small(name, value)
        for name, value in defaults.items()
        if name not in _OF_EVERY_CONFIG
    }
    counts = [name for name in _LAYER_COUNTS if isinstance(defaults.get(name), int)]
    if counts:
        _keep_each_kind_of_layer(settings, defaults, counts[0])
    if "is_decoder" in settings:  # as those of an encoder's types that write text say
        settings["is_decoder"] = True
    if settings.get("num_key_value_heads") and _all_heads_have_keys(defaults):
        settings["num_key_value_heads"] = _HEADS
    return settings | CORRECTIONS.get(defaults["model_type"], {})


def _is_config(value) -> bool:
    return isinstance(value, dict) and "model_type" in value


def _small(name: str, value):
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if name.endswith(("_token_id", "_token_index", "_id")):
        return {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}.get(name, 3)
    for pattern, small in _RULES:
        if re.search(pattern, name):
            return min(value, small)
    return value


def _keep_each_kind_of_layer(settings: dict, defaults: dict, count: str) -> None:
    """As many layers as the longest list of kinds needs, 2 at least."""
    per_layer = {
        name: list(dict.fromkeys(value))
        for name, value in defaults.items()
        if isinstance(value, list) and len(value) == defaults[count] and _is_plain(value)
    }
    layers = max([2, *(len(kinds) for kinds in per_layer.values() if len(kinds) < 5)])
    settings[count] = layers
    for name, kinds in per_layer.items():
        settings[name] = (kinds * layers)[:layers]


def _is_plain(values: list) -> bool:
    return all(isinstance(value, (str, int, float)) or value is None for value in values)


def _all_heads_have_keys(defaults: dict) -> bool:
    return defaults.get("num_key_value_heads") == defaults.get("num_attention_heads")
