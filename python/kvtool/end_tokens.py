"""Which tokens end a generation.

transformers' generate() ends at the ids of the model's generation config alone: those of
generation_config.json where there is one, else those of config.json. Other engines look at the
tokenizer, too: a model that was trained further often keeps an older generation config.
"""

from __future__ import annotations

import argparse

from kvtool.errors import UsageError

ALL = "all"
TRANSFORMERS = "transformers"

Rule = str | list[int]


def parse(text: str) -> Rule:
    """The option's value: one of the two words above, or ids with commas between them."""
    if text in (ALL, TRANSFORMERS):
        return text
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise argparse.ArgumentTypeError(
            f"'{text}' is neither '{ALL}' nor '{TRANSFORMERS}' nor token ids such as 2,32000"
        )
    return [int(word) for word in words]


def chosen(rule: Rule, model, tokenizer, vocab_size: int) -> list[int]:
    """The ids that end a generation, each once. Raises UsageError for an id of the rule that
    is outside the vocabulary; such ids of a checkpoint can never be generated and are left out."""
    if isinstance(rule, list):
        for token_id in rule:
            if token_id >= vocab_size:
                raise UsageError(
                    f"--eos: token id {token_id} is outside the vocabulary (0 to {vocab_size - 1})"
                )
        return list(dict.fromkeys(rule))
    ids = _of_transformers(model) if rule == TRANSFORMERS else _of_all(model, tokenizer)
    return [token_id for token_id in ids if 0 <= token_id < vocab_size]


def difference(rule: Rule, model, tokenizer) -> str | None:
    """A line for the user where a generation ends elsewhere than in transformers."""
    ours = set(rule if isinstance(rule, list) else _of_all(model, tokenizer))
    theirs = set(_of_transformers(model))
    if rule == TRANSFORMERS or ours == theirs:
        return None
    parts = []
    if ours - theirs:
        parts.append(f"at {_named(ours - theirs, tokenizer)}, where transformers' generate() goes on")
    if theirs - ours:
        parts.append(f"not at {_named(theirs - ours, tokenizer)}, where transformers' generate() ends")
    return f"a generation ends {', and '.join(parts)}; --eos {TRANSFORMERS} ends where it does"


def _of_transformers(model) -> list[int]:
    return _ids(getattr(getattr(model, "generation_config", None), "eos_token_id", None))


def _of_all(model, tokenizer) -> list[int]:
    configured = _of_transformers(model) or _ids(getattr(model.config, "eos_token_id", None))
    own = _ids(getattr(tokenizer, "eos_token_id", None))
    return list(dict.fromkeys(configured + own))


def _ids(value) -> list[int]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return list(dict.fromkeys(int(token_id) for token_id in values if token_id is not None))


def _named(ids: set[int], tokenizer) -> str:
    def named(token_id: int) -> str:
        token = tokenizer.convert_ids_to_tokens(token_id) if tokenizer is not None else None
        return f"{token_id} ({token})" if token else str(token_id)

    return ", ".join(named(token_id) for token_id in sorted(ids))
