"""Settings of a checkpoint that make transformers' greedy generation choose other tokens.

kvtool takes the largest logit of each step. A checkpoint's generation_config.json may ask for
more, which is then named, not applied.
"""

from __future__ import annotations

# Setting -> values that change nothing.
_NEUTRAL = {
    "bad_words_ids": (None, []),
    "begin_suppress_tokens": (None, []),
    "constraints": (None, []),
    "diversity_penalty": (None, 0.0),
    "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (None, 0),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None, []),
    "forced_bos_token_id": (None,),
    "forced_decoder_ids": (None, []),
    "forced_eos_token_id": (None,),
    "guidance_scale": (None, 1.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "num_beams": (None, 1),
    "penalty_alpha": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "sequence_bias": (None, [], {}),
    "stop_strings": (None, []),
    "suppress_tokens": (None, []),
    "watermarking_config": (None,),
}


def not_applied(generation) -> dict:
    """Name -> value of the settings of a transformers generation config (or None) that kvtool
    does not apply, in order of their names."""
    found = {}
    for name, neutral in _NEUTRAL.items():
        value = getattr(generation, name, None)
        if value not in neutral:
            # As JSON holds it: nothing here is known to be plain data.
            found[name] = value if isinstance(value, (bool, int, float, str, list)) else str(value)
    return found


def warning(settings: dict) -> str:
    """One line on what `not_applied` found."""
    named = ", ".join(f"{name} = {_short(value)}" for name, value in settings.items())
    return (
        f"the checkpoint's generation settings change greedy decoding, but kvtool does not apply "
        f"them: {named}; it takes the largest logit of each step"
    )


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
