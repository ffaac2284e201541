"""Switches the attention and experts implementations of a loaded model."""

from __future__ import annotations

from contextlib import contextmanager


@contextmanager
def implementations(model, attention: str, experts: str = "eager"):
    """Inside the block the model runs attention implementation `attention` and experts
    implementation `experts`, by their names in transformers.

    The setters in transformers refuse models by inspecting their source text.
    Whether a model really calls an implementation is seen when it runs, so the
    configs are set directly, those of all submodules included.
    """
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    before = {
        key: (config._attn_implementation_internal, config._experts_implementation_internal)
        for key, config in configs.items()
    }
    try:
        for config in configs.values():
            config._attn_implementation_internal = attention
            config._experts_implementation_internal = experts
        yield
    finally:
        for key, config in configs.items():
            (
                config._attn_implementation_internal,
                config._experts_implementation_internal,
            ) = before[key]
