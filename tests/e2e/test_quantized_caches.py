"""--kv-cache kivi and fp8 against transformers whose attention gets rows that are kept the same way
(docs/caches.md).

The formulas here are in torch, group by group and without packing; attention and everything else
are transformers' own.
"""

import functools
import json
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file

NEW_TOKENS = 24
GROUP, RESIDUAL, SINKS = 4, 5, 2
SPEC = f"group={GROUP},residual={RESIDUAL},sinks={SINKS}"
# What rounds is the same for every family, and all of it is seen on llama: grouped heads. The
# others see that rows of other shapes arrive: heads without groups, window and soft cap, one
# head, values of another size than keys, sinks and experts.
KIVI_CASES = [("llama", 2), ("llama", 4), ("llama", 8), ("gpt2", 4), ("gemma2", 2),
              ("gpt_bigcode", 8), ("deepseek_v3", 4), ("gpt_oss", 2)]
FP8_CASES = [("llama", "e4m3", "head"), ("llama", "e4m3", "tensor"), ("llama", "e5m2", "head"),
             ("llama", "e5m2", "tensor"), ("gpt2", "e5m2", "head"), ("gemma2", "e4m3", "tensor"),
             ("gpt_bigcode", "e5m2", "tensor"), ("deepseek_v3", "e4m3", "head"),
             ("gpt_oss", "e4m3", "head")]


def group_as_kept(numbers, bits):
    """One group of numbers that share a scale."""
    least, greatest = numbers.min(), numbers.max()
    step = torch.maximum((greatest - least) / (2**bits - 1), (least + greatest).abs() / 250)
    if step == 0:
        return torch.zeros_like(numbers)
    scale = step.to(torch.bfloat16)
    if scale.float() < step:
        scale = torch.nextafter(scale, torch.tensor(torch.inf, dtype=torch.bfloat16))
    scale = scale.float()
    zero = torch.round(least / scale)
    codes = (torch.round(numbers / scale) - zero).clamp(0, 2**bits - 1)
    return (codes + zero) * scale


def settled(positions):
    old = positions - RESIDUAL - SINKS
    return SINKS + old // GROUP * GROUP if old >= GROUP else 0


def positions_as_kept(keys, values, bits):
    """One group of positions, [1, heads, GROUP, dim]."""
    keys, values = keys.clone(), values.clone()
    for head in range(keys.shape[1]):
        for channel in range(keys.shape[3]):
            keys[0, head, :, channel] = group_as_kept(keys[0, head, :, channel], bits)
        for position in range(GROUP):
            for channel in range(0, values.shape[3], GROUP):
                part = values[0, head, position, channel : channel + GROUP]
                values[0, head, position, channel : channel + GROUP] = group_as_kept(part, bits)
    return keys, values


class Kivi:
    """Keeps rows as they are made; a step sees the old ones quantized, a prompt none."""

    def __init__(self, bits):
        self._bits = bits
        self._groups = {}  # each is quantized once

    def kept(self, layer, keys, values):
        return keys, values

    def seen(self, layer, keys, values):
        keys, values = keys.clone(), values.clone()
        for first in range(SINKS, settled(keys.shape[2]), GROUP):
            positions = slice(first, first + GROUP)
            if (layer, first) not in self._groups:
                self._groups[layer, first] = positions_as_kept(
                    keys[:, :, positions], values[:, :, positions], self._bits)
            keys[:, :, positions], values[:, :, positions] = self._groups[layer, first]
        return keys, values


class Fp8:
    """Keeps every row as 8-bit floating point, with the scales that the prompt needs, which comes
    first."""

    def __init__(self, dtype, per_head):
        self._dtype, self._per_head = dtype, per_head
        self._scales = {}

    def kept(self, layer, keys, values):
        return self._rounded(keys, (layer, "key")), self._rounded(values, (layer, "value"))

    def _rounded(self, rows, of):
        largest = torch.finfo(self._dtype).max
        if of not in self._scales:
            most = rows.abs().amax((2, 3), keepdim=True) if self._per_head else rows.abs().max()
            self._scales[of] = 2 ** torch.ceil(torch.log2(most / largest))
        scale = self._scales[of]
        return (rows / scale).clamp(-largest, largest).to(self._dtype).float() * scale

    def seen(self, layer, keys, values):
        return self.kept(layer, keys, values)


class Exact:
    def kept(self, layer, keys, values):
        return keys, values

    seen = kept


@functools.cache
def model_in(directory):
    """Whose attention is what "quantized" is at the time."""
    transformers.AttentionInterface.register("quantized", lambda: None)
    transformers.AttentionMaskInterface.register("quantized", transformers.masking_utils.eager_mask)
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="quantized").eval()


def rows(model, ids, answer, policy):
    """K and V of every layer after prompt and steps: [heads, positions, dim]. Taken where attention
    gets them: transformers' own cache may hold what K and V are made of (deepseek_v3)."""
    latest = {}

    def attend(module, query, keys, values, *args, **kwargs):
        layer = module.layer_idx
        latest[layer] = policy.kept(layer, keys, values)
        seen = (policy.kept if query.shape[2] > 1 else policy.seen)(layer, keys, values)
        own = sys.modules[type(module).__module__].eager_attention_forward
        return own(module, query, *seen, *args, **kwargs)

    transformers.AttentionInterface.register("quantized", attend)
    cache = transformers.DynamicCache()
    with torch.no_grad():
        for fed in [ids] + [[token] for token in answer]:
            model(torch.tensor([fed]), past_key_values=cache)
    return [(keys[0], values[0]) for keys, values in latest.values()]


def distance(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def assert_steps_see_the_same(family, spec, policy, exported, tiny_directory, token_prompts, kvtool):
    """Rows above the first layer tell what the queries below saw. Noise of float32 may move a
    number over the border between two codes; that is a small part of what quantizing does."""
    kvtool.ok("save", "--model", exported(family).path, "--prompts", token_prompts,
              "--batch-size", 3, "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu",
              "--kv-cache", spec, "--out", "ref_cache")
    model = model_in(tiny_directory(family))
    for index, line in enumerate(token_prompts.read_text().splitlines()):
        recording = next(kvtool.directory.glob(f"ref_cache/CPU/*/batch3_input{index}.kvc"))
        target = kvtool.directory / f"{index}.safetensors"
        kvtool.ok("dump", recording, "--step", NEW_TOKENS - 2, "--to", target)
        dumped = load_file(target)
        ids = json.loads(line)["token_ids"]
        answer = dumped["tokens"].tolist()[len(ids) : len(ids) + NEW_TOKENS - 1]
        theirs = rows(model, ids, answer, policy())
        whole = rows(model, ids, answer, Exact())
        for layer in range(1, len(theirs)):
            for name, own, other in zip(("key", "value"), theirs[layer], whole[layer]):
                quantized = distance(own, other)
                assert quantized > 1e-6
                ours = distance(dumped[f"{name}.{layer}"], own)
                assert ours < max(1e-5, 0.05 * quantized), f"{name}.{layer}"


@pytest.mark.parametrize("family, bits", KIVI_CASES)
def test_kivi(family, bits, exported, tiny_directory, token_prompts, kvtool):
    for line in token_prompts.read_text().splitlines():
        assert settled(len(json.loads(line)["token_ids"]) + NEW_TOKENS - 1) > 0
    assert_steps_see_the_same(family, f"kivi:k={bits},v={bits},{SPEC}", lambda: Kivi(bits),
                              exported, tiny_directory, token_prompts, kvtool)


@pytest.mark.parametrize("family, name, per", FP8_CASES)
def test_fp8(family, name, per, exported, tiny_directory, token_prompts, kvtool):
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[name]
    assert_steps_see_the_same(family, f"fp8:type={name},per={per}",
                              lambda: Fp8(dtype, per == "head"), exported, tiny_directory,
                              token_prompts, kvtool)
