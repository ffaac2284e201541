"""Rotary frequencies that depend on the length of the sequence.

Such a model computes with one set of frequencies up to its original length (longrope: the
short factors; dynamic: the plain frequencies), and with others beyond. A trace holds one set,
so these models are refused, unless the user asks for the original length alone.
"""

from __future__ import annotations

from contextlib import contextmanager

from kvtool.errors import UnsupportedModelError

LENGTH_DEPENDENT_TYPES = ("dynamic", "longrope")

# What the types other than "default" compute with. A config of that type that names one of
# them was changed by hand, or its reader does not know them: either way it says two things.
_SCALING_KEYS = frozenset(
    {
        "attention_factor", "beta_fast", "beta_slow", "factor", "high_freq_factor", "long_factor",
        "long_mscale", "low_freq_factor", "mscale", "mscale_all_dim", "short_factor",
        "short_mscale",
    }
)  # fmt: skip


def unread_keys(config) -> list[str]:
    """Keys of the rope parameters that would scale frequencies, but that the rope type of
    the config does not read."""
    unread = set()
    for parameters in _parameter_sets(config):
        if str(parameters.get("rope_type", "default")) == "default":
            named = {key for key, value in parameters.items() if value not in (None, 1, 1.0)}
            unread |= named & _SCALING_KEYS
    return sorted(unread)


def length_dependent_type(config) -> str | None:
    """The rope type of `config` that makes frequencies change within its positions."""
    longest = getattr(config, "max_position_embeddings", None)
    for parameters in _parameter_sets(config):
        rope_type = str(parameters.get("rope_type", "default"))
        original = parameters.get("original_max_position_embeddings")
        if rope_type in LENGTH_DEPENDENT_TYPES and not (
            longest and original and longest <= original
        ):
            return rope_type
    return None


def original_length(config) -> int | None:
    """The most positions for which the frequencies are those of a short sequence; None if
    the config does not tell. transformers lets type 'dynamic' grow beyond
    max_position_embeddings, type 'longrope' beyond original_max_position_embeddings."""
    longest = getattr(config, "max_position_embeddings", None)
    lengths = []
    for parameters in _parameter_sets(config):
        rope_type = parameters.get("rope_type")
        if rope_type == "longrope":
            lengths.append(parameters.get("original_max_position_embeddings"))
        elif rope_type == "dynamic":
            lengths.append(longest)
    if not lengths or not all(lengths):
        return None
    return int(min([*lengths, *([longest] if longest else [])]))


@contextmanager
def fixed_at_original_length(model):
    """Within the block the rotary modules of `model` keep the frequencies and the attention
    factor that they have up to the original length; behind it they are as before.

    Raises UnsupportedModelError for a module that keeps no such frequencies.
    """
    changed = []
    try:
        for name, module in model.named_modules():
            rope_type = getattr(module, "rope_type", None)
            if rope_type is None or not _depends_on_length(rope_type):
                continue
            changed.append((module, rope_type, _restore_frequencies(name, module, rope_type)))
            # transformers changes frequencies by this name alone.
            fixed = (
                {kind: "fixed" for kind in rope_type} if isinstance(rope_type, dict) else "fixed"
            )
            module.rope_type = fixed
        yield
    finally:
        for module, rope_type, buffers in changed:
            module.rope_type = rope_type
            for buffer, value in buffers.items():
                setattr(module, buffer, value)


def _depends_on_length(rope_type: str | dict) -> bool:
    kinds = rope_type.values() if isinstance(rope_type, dict) else [rope_type]
    return any(kind in LENGTH_DEPENDENT_TYPES for kind in kinds)


def _restore_frequencies(name: str, module, rope_type: str | dict) -> dict:
    """Puts the original frequencies back; returns those that were there."""
    prefixes = [f"{kind}_" for kind in rope_type] if isinstance(rope_type, dict) else [""]
    before = {}
    for prefix in prefixes:
        original = getattr(module, f"{prefix}original_inv_freq", None)
        if original is None:
            raise UnsupportedModelError(f"{name} keeps no frequencies of the original length")
        before[f"{prefix}inv_freq"] = getattr(module, f"{prefix}inv_freq")
        # A copy: a trace cannot hold one buffer under two names.
        setattr(module, f"{prefix}inv_freq", original.clone())
    return before


def _parameter_sets(config) -> list[dict]:
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]
