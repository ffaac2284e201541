"""The source text of a model type's classes: what they read that their configs do not declare."""

from __future__ import annotations

import functools
import inspect
import re

from transformers import cache_utils, masking_utils, modeling_rope_utils, modeling_utils
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING


def names(config, key: str) -> bool:
    """Whether `config`'s class or its language model reads `key`: as an attribute of a config, or
    by a name in quotes."""
    word = re.escape(key)
    own, model = _texts_of(type(config))
    return bool(
        re.search(rf"config\.{word}\b|[\"']{word}[\"']", own + model)
        or re.search(rf"self\.{word}\b", own)
    )


def shared_code_names(key: str) -> bool:
    """Whether what all models of transformers share reads `key` of a config."""
    word = re.escape(key)
    return bool(re.search(rf"config\.{word}\b|[\"']{word}[\"']", _shared_text()))


@functools.cache
def _shared_text() -> str:
    modules = (cache_utils, masking_utils, modeling_rope_utils, modeling_utils)
    return "\n".join(inspect.getsource(module) for module in modules)


@functools.cache
def _texts_of(config_class: type) -> tuple[str, str]:
    """Of the modules of the config class and of its language model."""
    model = ""
    if config_class in MODEL_FOR_CAUSAL_LM_MAPPING:
        model = inspect.getsource(inspect.getmodule(MODEL_FOR_CAUSAL_LM_MAPPING[config_class]))
    return inspect.getsource(inspect.getmodule(config_class)), model
