"""What a model is beside its weights: its config, in a form that can be compared.

Equal weights compute something else with another rope theta, epsilon, window or number of
experts per token. The canonical config holds every field of the transformers config, defaults
as its class resolved them, without the fields that cannot change what an exported model
computes.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Mapping

import torch

from kvtool.errors import UnsupportedModelError

_VERSION = "says who wrote the config, not what the model computes"
_NAME = "a name; the class that was loaded is recorded as the architecture"
_PATH = "where the config was found"
_CACHE = "switches transformers' own cache, which an exported model does not have"
_RETURNED = "chooses what is returned beside the logits"
_TRAINING = "is used in training alone"
_DROPOUT = "nothing is dropped when a model is evaluated"
_INITIAL = "initial weights; all weights come from the checkpoint"
_HEAD = "belongs to a head for classification, which an exported model does not have"
_KERNEL = "chooses transformers' kernels; the exporter has its own"
_DEVICES = "spreads a model over devices"

# Field -> why no output of an exported model depends on it. Holds in the config and in those
# nested in it.
HARMLESS = {
    "transformers_version": _VERSION,
    "unsloth_version": _VERSION,
    "unsloth_fixed": _VERSION,
    "architectures": _NAME,
    "auto_map": _NAME,
    "tokenizer_class": _NAME,
    "finetuning_task": _NAME,
    "_name_or_path": _PATH,
    "name_or_path": _PATH,
    "_commit_hash": _PATH,
    "use_cache": _CACHE,
    "cache_implementation": _CACHE,
    "dtype": "the dtype of the exported weights is recorded as the model's dtype",
    "torch_dtype": "the dtype of the exported weights is recorded as the model's dtype",
    "quantization_config": "how the checkpoint keeps weights; those it stands for are in the digest",
    "output_attentions": _RETURNED,
    "_output_attentions": _RETURNED,
    "output_hidden_states": _RETURNED,
    "output_router_logits": _RETURNED,
    "return_dict": _RETURNED,
    "use_return_dict": _RETURNED,
    "torchscript": _RETURNED,
    "gradient_checkpointing": _TRAINING,
    "router_aux_loss_coef": _TRAINING,
    "aux_loss_coef": _TRAINING,
    "aux_loss_alpha": _TRAINING,
    "router_z_loss_coef": _TRAINING,
    "z_loss_coefficient": _TRAINING,
    "seq_aux": _TRAINING,
    "dropout": _DROPOUT,
    "activation_dropout": _DROPOUT,
    "attention_dropout": _DROPOUT,
    "attention_probs_dropout_prob": _DROPOUT,
    "attn_pdrop": _DROPOUT,
    "embd_pdrop": _DROPOUT,
    "emb_pdrop": _DROPOUT,
    "embed_dropout": _DROPOUT,
    "embedding_dropout": _DROPOUT,
    "hidden_dropout": _DROPOUT,
    "hidden_dropout_prob": _DROPOUT,
    "layerdrop": _DROPOUT,
    "resid_dropout": _DROPOUT,
    "resid_pdrop": _DROPOUT,
    "residual_dropout": _DROPOUT,
    "initializer_range": _INITIAL,
    "initializer_factor": _INITIAL,
    "embedding_initializer_range": _INITIAL,
    "init_std": _INITIAL,
    "classifier_dropout": _HEAD,
    "id2label": _HEAD,
    "label2id": _HEAD,
    "num_labels": _HEAD,
    "problem_type": _HEAD,
    "task_specific_params": _HEAD,
    "summary_activation": _HEAD,
    "summary_first_dropout": _HEAD,
    "summary_proj_to_labels": _HEAD,
    "summary_type": _HEAD,
    "summary_use_proj": _HEAD,
    "attn_implementation": _KERNEL,
    "_attn_implementation": _KERNEL,
    "_attn_implementation_autoset": _KERNEL,
    "_attn_implementation_internal": _KERNEL,
    "experts_implementation": _KERNEL,
    "_experts_implementation": _KERNEL,
    "_experts_implementation_internal": _KERNEL,
    "base_model_ep_plan": _DEVICES,
    "base_model_fsdp_plan": _DEVICES,
    "base_model_pp_plan": _DEVICES,
    "base_model_tp_plan": _DEVICES,
}

# A recording holds the config, so it stays small: a list of a layer's or a dimension's numbers
# fits, a table does not and is told by its digest.
MAX_VALUE_BYTES = 4096
MAX_BYTES = 256 * 1024
MAX_DEPTH = 8


def canonical_config(config) -> dict:
    """The fields of a transformers config that decide what the model computes, as JSON
    values in the order of their names.

    Raises UnsupportedModelError for a config that no recording can hold.
    """
    found = _canonical_fields(config.to_dict())
    size = len(canonical_text(found).encode())
    depth = _depth(found)
    if size > MAX_BYTES or depth > MAX_DEPTH:
        raise UnsupportedModelError(
            f"its config takes {size} bytes and is nested {depth} deep; at most {MAX_BYTES} bytes "
            f"and {MAX_DEPTH} levels fit into a recording. Does config.json hold something that "
            "is no setting of the model?"
        )
    return found


def canonical_text(value) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_digest(canonical: dict) -> str:
    """SHA-256 in hex of the canonical config's text."""
    return hashlib.sha256(canonical_text(canonical).encode()).hexdigest()


def _canonical_fields(fields: Mapping) -> dict:
    named = {str(name): value for name, value in fields.items()}
    return {name: _bounded(_canonical(named[name])) for name in sorted(set(named) - set(HARMLESS))}


def _canonical(value):
    """`value` in JSON's types; numbers that are equal become the same."""
    if isinstance(value, enum.Enum):
        return _canonical(value.value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _canonical_float(value)
    if isinstance(value, Mapping):
        if "model_type" in value:
            return _canonical_fields(value)
        named = {str(name): each for name, each in value.items()}
        return {name: _bounded(_canonical(named[name])) for name in sorted(named)}
    if isinstance(value, (set, frozenset)):
        return sorted((_canonical(each) for each in value), key=canonical_text)
    if isinstance(value, (list, tuple)):
        return [_canonical(each) for each in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if hasattr(value, "to_dict"):
        return _canonical(value.to_dict())
    # Its text may hold an address, which differs from run to run.
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _canonical_float(value: float):
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _depth(value) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, inner), default=0)


def _bounded(value):
    """A digest in place of a value that is too long for a recording."""
    if isinstance(value, dict):
        return value
    text = canonical_text(value)
    if len(text.encode()) <= MAX_VALUE_BYTES:
        return value
    return f"SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
