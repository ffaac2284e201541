"""Writes GGUF files of transformers models, the way llama.cpp's converter does."""

from __future__ import annotations

import re

import gguf
import numpy as np
import torch

from kvtool import tiny_models

TYPES = gguf.GGUFValueType
HEADS, KV_HEADS, HIDDEN, LAYERS = 4, 2, 64, 2


def vocabulary():
    """384 tokens and the merges of the byte-level tokenizer of the tiny models."""
    import json

    backend = json.loads(tiny_models.build_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(backend["vocab"].items(), key=lambda entry: entry[1])]
    tokens += [f"<extra{index}>" for index in range(384 - len(tokens))]
    merges = [" ".join(m) if isinstance(m, list) else m for m in backend["merges"]]
    return tokens, merges


def pieces():
    """384 pieces of SentencePiece with their types: bytes and a few words."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += ["\u2581", "h", "i", "t", "\u2581t", "hi", "\u2581hi", "\u2581hit"]
    types = [2, 3, 3] + [6] * 256 + [1] * (384 - 259)
    tokens += [f"w{index}" for index in range(384 - len(tokens))]
    return tokens, types


def tokenizer_keys(kind="gpt2", pre="qwen2"):
    if kind == "gpt2":
        tokens, merges = vocabulary()
        keys = {"merges": merges, "token_type": [3] * 3 + [1] * 381}
    else:
        tokens, types = pieces()
        keys = {"scores": [-float(index) for index in range(384)], "token_type": types}
    keys |= {"model": kind, "pre": pre, "tokens": tokens, "bos_token_id": 1, "eos_token_id": 2}
    keys |= {"padding_token_id": 0}
    return {"tokenizer.ggml." + name: value for name, value in keys.items()}


def architecture_keys(architecture, **changed):
    keys = {
        "block_count": LAYERS, "context_length": 256, "embedding_length": HIDDEN,
        "feed_forward_length": 96, "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS, "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e4, "vocab_size": 384,
    }  # fmt: skip
    keys |= {name.replace("__", "."): value for name, value in changed.items()}
    return {f"{architecture}.{name}": v for name, v in keys.items() if v is not None}


def write(path, architecture, keys, tensors=None):
    """`keys` name -> value, `tensors` name -> array"""
    writer = gguf.GGUFWriter(str(path), architecture)
    for name, value in keys.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, _type_of(value))
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors_of(model, architecture):
    """The model's weights under GGUF's names, in the order and with the offsets that
    llama.cpp's converter gives them."""
    arch = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    tensors = {}
    for name, weight in model.state_dict().items():
        array = weight.float().numpy()
        moe = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj", name)
        if moe:
            layer, part = moe.groups()
            parts = {"down": array}
            if part == "gate_up":
                parts = dict(zip(("gate", "up"), np.split(array, 2, axis=1), strict=True))
            for kind, values in parts.items():
                tensors[f"blk.{layer}.ffn_{kind}_exps.weight"] = values
            continue
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found, name
        tensors[found] = _as_converted(array, found, architecture)
    return tensors


def _as_converted(array, name, architecture):
    if architecture == "llama" and re.search(r"attn_[qk]\.weight", name):
        heads = HEADS if "attn_q." in name else KV_HEADS
        split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
        return split.swapaxes(1, 2).reshape(array.shape)
    if architecture in ("gemma2", "gemma3", "nemotron") and name.endswith("norm.weight"):
        return array + 1
    if architecture == "gpt2" and re.search(
        r"(attn_qkv|attn_output|ffn_up|ffn_down)\.weight", name
    ):
        return array.T
    if name.endswith("ffn_gate_inp_shexp.weight"):
        return array.reshape(-1)
    return array


def random_model(config, seed=0):
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    tiny_models._randomize(model, seed)
    return model.eval()


def _type_of(value):
    return {
        bool: TYPES.BOOL, int: TYPES.UINT32, float: TYPES.FLOAT32, str: TYPES.STRING,
    }[type(value)]  # fmt: skip
