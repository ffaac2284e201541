"""Which models are refused by their config alone, before weights are read.

Everything here is also visible later (to the probe, the tracer or the agreement
check), but less clearly and after minutes of loading.
"""

from __future__ import annotations

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kvtool.errors import UnsupportedModelError

# RoPE types whose frequencies depend on the length of the sequence.
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

_ATTENTION_LAYER_TYPES = ("full_attention", "sliding_attention", "attention")


def max_positions(config) -> int | None:
    """The largest number of positions that the model was made for; None if it names none."""
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if found else None


def require_supported(config) -> None:
    """Raises UnsupportedModelError, with the reason, for configs that cannot work."""

    def refuse(reason: str):
        raise UnsupportedModelError(f"model type '{config.model_type}' is not supported: {reason}")

    if getattr(config, "is_encoder_decoder", False):
        refuse("it is an encoder-decoder; kvtool needs a decoder-only language model")
    if getattr(config, "add_cross_attention", False):
        refuse("it has cross-attention layers")
    if config.get_text_config(decoder=True) is not config:
        names = ", ".join(sorted(config.sub_configs))
        refuse(
            f"it combines several models ({names}); export a checkpoint that holds the text "
            "model alone"
        )
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        refuse("transformers has no causal language model for it")
    if getattr(config, "num_kv_shared_layers", 0):
        refuse("layers share one cache")
    if getattr(config, "alibi", False):
        refuse("it biases attention by distance (ALiBi), which the op cannot express")
    if getattr(config, "attention_chunk_size", None):
        refuse("its attention works in chunks, which the op cannot express")
    for layer, kind in enumerate(getattr(config, "layer_types", None) or ()):
        if kind not in _ATTENTION_LAYER_TYPES:
            refuse(f"layer {layer} is '{kind}', whose state is not a cache of keys and values")
    for name, rope_type in _rope_types(config):
        longest = max_positions(config)
        original = _original_positions(config, name)
        if rope_type in _LENGTH_DEPENDENT_ROPE and not (
            longest and original and longest <= original
        ):
            refuse(
                f"its rotary frequencies depend on the length of the sequence (rope type "
                f"'{rope_type}'), which one trace cannot hold; set the rope parameters of the "
                "checkpoint's config.json to a fixed type to export a model of the original length"
            )


def _rope_parameter_sets(config) -> dict[str, dict]:
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = {key: value for key, value in parameters.items() if isinstance(value, dict)}
    return nested or {"": parameters}


def _rope_types(config) -> list[tuple[str, str]]:
    return [
        (name, str(parameters.get("rope_type", "default")))
        for name, parameters in _rope_parameter_sets(config).items()
    ]


def _original_positions(config, name: str) -> int | None:
    parameters = _rope_parameter_sets(config)[name]
    return parameters.get("original_max_position_embeddings")
