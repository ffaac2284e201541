"""Which models are refused by their config alone, before weights are read.

Everything here is also visible later (to the probe, the tracer or the agreement
check), but less clearly and after minutes of loading.
"""

from __future__ import annotations

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kvtool import rope
from kvtool.errors import UnsupportedModelError, UsageError

_ATTENTION_LAYER_TYPES = ("full_attention", "sliding_attention", "attention")


def max_positions(config) -> int | None:
    """The largest number of positions that the model was made for; None if it names none."""
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if found else None


def require_supported(config, at_original_length: bool = False) -> None:
    """Raises UnsupportedModelError, with the reason, for configs that cannot work.

    `at_original_length`: the model is wanted for its original length alone. Raises
    UsageError where that means nothing.
    """

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
    unread = rope.unread_keys(config)
    if unread:
        rope_type, keys = unread[0][0], ", ".join(key for _, key in unread)
        refuse(
            f"its rope type is '{rope_type}', which does not read {keys} of its rope "
            "parameters; restore the checkpoint's own config.json"
        )
    rope_type = rope.length_dependent_type(config)
    if rope_type and not at_original_length:
        length = rope.original_length(config)
        way_out = (
            f"; --original-length exports it for its first {length} positions, with the "
            "frequencies and the attention factor that it uses there"
            if length
            else ""
        )
        refuse(
            "its rotary frequencies depend on the length of the sequence (rope type "
            f"'{rope_type}'), which one trace cannot hold{way_out}"
        )
    if at_original_length and not (rope_type and rope.original_length(config)):
        raise UsageError(
            "--original-length is for models whose rotary frequencies depend on the length of "
            f"the sequence; those of this '{config.model_type}' do not, or it names no original "
            "length: leave the option out"
        )
