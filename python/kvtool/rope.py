"""Rotary frequencies that depend on the length of the sequence.

Such a model computes with one set of frequencies up to its original length (longrope: the
short factors; dynamic: the plain frequencies), and with others beyond. A trace holds one set,
so these models are refused, unless the user asks for the original length alone.
"""

from __future__ import annotations

from contextlib import contextmanager

from kvtool import class_source
from kvtool.errors import UnsupportedModelError

LENGTH_DEPENDENT_TYPES = ("dynamic", "longrope")

_YARN_KEYS = {"attention_factor", "beta_fast", "beta_slow", "factor", "mscale", "mscale_all_dim"}
# What each type computes frequencies with, beside the base. A config that names a key of another
# type was changed by hand, or its reader does not know the key: either way it says two things.
_KEYS_OF_TYPE = {
    "default": set(),
    "linear": {"factor"},
    "proportional": {"factor", "partial_rotary_factor"},
    "dynamic": {"factor"},
    "yarn": _YARN_KEYS,
    "longrope": {"attention_factor", "factor", "long_factor", "short_factor"},
    "llama3": {"factor", "high_freq_factor", "low_freq_factor"},
}
# The last ones are of some classes alone.
_SCALING_KEYS = set().union(
    *_KEYS_OF_TYPE.values(), {"alpha", "llama_4_scaling_beta", "long_mscale", "short_mscale"}
)
_OTHER_KEYS = {
    "finetuned", "mrope_interleaved", "mrope_section", "original_max_position_embeddings",
    "rope_theta", "rope_type", "truncate", "type",
}  # fmt: skip
# Read by transformers' function of the type alone; a class names them where it checks them.
_READ_BY_TYPE = {"long_factor", "short_factor"}
# The values with which a key changes nothing, 1 aside.
_NEUTRAL = {"beta_fast": 32}


def unread_keys(config) -> list[tuple[str, str]]:
    """Rope type and key of the rope parameters that would change frequencies, but that
    neither the rope type nor the model's class reads."""
    unread = []
    for parameters in parameter_sets(config):
        rope_type = str(parameters.get("rope_type", "default"))
        if rope_type not in _KEYS_OF_TYPE:
            continue
        suspects = _SCALING_KEYS - _KEYS_OF_TYPE[rope_type]
        if rope_type != "default":
            suspects -= {"partial_rotary_factor"}  # all of transformers' own functions read it
        unread += [
            (rope_type, key)
            for key, value in parameters.items()
            if key in suspects
            and value not in (None, 1, _NEUTRAL.get(key))
            and (key in _READ_BY_TYPE or not class_source.names(config, key))
        ]
    return sorted(set(unread))


def unknown_keys(config) -> dict[str, object]:
    """Keys of the rope parameters, with their values, that neither transformers nor the model's
    class knows."""
    return {
        key: value
        for parameters in parameter_sets(config)
        for key, value in parameters.items()
        if key not in _SCALING_KEYS | _OTHER_KEYS
        and value not in (None, False, 1)
        and not class_source.names(config, key)
    }


def length_dependent_type(config) -> str | None:
    """The rope type of `config` that makes frequencies change within its positions."""
    longest = getattr(config, "max_position_embeddings", None)
    for parameters in parameter_sets(config):
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
    for parameters in parameter_sets(config):
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


def parameter_sets(config) -> list[dict]:
    """The rope parameters of `config`: one set, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]
