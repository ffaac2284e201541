"""The facts about an exported model that the engine reads: `kvtool.json`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import torch
import transformers

from kvtool import CONTRACT_VERSION, __version__, rotation
from kvtool.canonical_config import canonical_config, config_digest
from kvtool.generation_settings import not_applied
from kvtool.layer_probe import LayerSpec
from kvtool.output_file import model_slug
from kvtool.tokenizer_source import chat_template_of


def describe(
    model,
    tokenizer,
    layers: Sequence[LayerSpec],
    rotary: rotation.Found,
    *,
    model_id: str,
    quantized_from: str | None,
    logits_dtype: torch.dtype,
    vocab_size: int,
    longest: int | None,
    weights_sha256: str,
    eos_token_ids: list[int],
    graph_sha256: str,
) -> dict:
    """The content of `kvtool.json`. `vocab_size` is the width of the logits, `longest` the
    number of positions that the exported model was made for, if it has a limit,
    `eos_token_ids` as `end_tokens.chosen` returns them."""
    generation = getattr(model, "generation_config", None)
    config = canonical_config(model.config)
    return {
        "contract_version": CONTRACT_VERSION,
        "model_id": model_id,
        "model_slug": model_slug(model_id),
        "architecture": type(model).__name__,
        "dtype": _name(model.get_input_embeddings().weight.dtype),
        "logits_dtype": _name(logits_dtype),
        "vocab_size": vocab_size,
        "max_positions": longest,
        "eos_token_ids": eos_token_ids,
        "pad_token_id": _first_id("pad_token_id", tokenizer, generation, model.config),
        "bos_token_id": _first_id("bos_token_id", tokenizer, generation, model.config),
        "generation_not_applied": not_applied(generation),
        "layers": [_layer(spec) for spec in layers],
        "rotary": rotation.describe(rotary),
        "weights_sha256": weights_sha256,
        "config": config,
        "config_sha256": config_digest(config),
        "graph_sha256": graph_sha256,
        "quantized_from": quantized_from,
        "has_chat_template": tokenizer is not None and chat_template_of(tokenizer) is not None,
        "torch_version": torch.__version__,
        "transformers_version": transformers.__version__,
        "exporter_version": __version__,
        "created_utc": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _layer(spec: LayerSpec) -> dict:
    return {
        "num_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "key_dim": spec.key_dim,
        "value_dim": spec.value_dim,
        "key_dtype": _name(spec.key_dtype),
        "value_dtype": _name(spec.value_dtype),
        "sliding_window": spec.sliding_window,
        "scale": spec.scale,
        "softcap": spec.softcap,
        "has_sinks": spec.has_sinks,
    }


def _first_id(name: str, *owners) -> int | None:
    for owner in owners:
        token_id = getattr(owner, name, None)
        if isinstance(token_id, int) and token_id >= 0:
            return token_id
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
