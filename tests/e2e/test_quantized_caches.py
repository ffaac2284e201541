"""--kv-cache kivi and fp8 against transformers with caches that keep rows the same way
(docs/caches.md).

The formulas here are in torch, group by group and without packing; attention and everything else
are transformers' own.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

NEW_TOKENS = 24
GROUP, RESIDUAL, SINKS = 4, 5, 2
SPEC = f"group={GROUP},residual={RESIDUAL},sinks={SINKS}"
# Grouped heads; heads without groups; window and soft cap.
FAMILIES = ["llama", "gpt2", "gemma2"]


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


def as_seen(keys, values, bits):
    """What the last of [1, heads, positions, dim] sees."""
    keys, values = keys.clone(), values.clone()
    for first in range(SINKS, settled(keys.shape[2]), GROUP):
        positions = slice(first, first + GROUP)
        for head in range(keys.shape[1]):
            for channel in range(keys.shape[3]):
                part = keys[0, head, positions, channel]
                keys[0, head, positions, channel] = group_as_kept(part, bits)
            for position in range(first, first + GROUP):
                for channel in range(0, values.shape[3], GROUP):
                    part = values[0, head, position, channel : channel + GROUP]
                    values[0, head, position, channel : channel + GROUP] = group_as_kept(part, bits)
    return keys, values


class KiviCache(transformers.DynamicCache):
    """Holds rows as they are made; a step sees the old ones quantized, a prompt none."""

    def __init__(self, bits):
        super().__init__()
        self.bits = bits

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return (keys, values) if key_states.shape[2] > 1 else as_seen(keys, values, self.bits)


class Fp8Cache(transformers.DynamicCache):
    """Keeps every row as 8-bit floating point, with the scales that the prompt needs."""

    def __init__(self, dtype, per_head):
        super().__init__()
        self.dtype, self.per_head = dtype, per_head
        self.scales = {}

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        kept = [self.kept(rows, (layer_idx, name))
                for name, rows in (("key", key_states), ("value", value_states))]
        return super().update(*kept, layer_idx, *args, **kwargs)

    def kept(self, rows, of):
        largest = torch.finfo(self.dtype).max
        if of not in self.scales:
            most = rows.abs().amax((2, 3), keepdim=True) if self.per_head else rows.abs().max()
            self.scales[of] = 2 ** torch.ceil(torch.log2(most / largest))
        scale = self.scales[of]
        return (rows / scale).clamp(-largest, largest).to(self.dtype).float() * scale


def rows(model, ids, answer, cache):
    """K and V of every layer after prompt and steps: [heads, positions, dim]."""
    with torch.no_grad():
        model(torch.tensor([ids]), past_key_values=cache)
        for token in answer:
            model(torch.tensor([[token]]), past_key_values=cache)
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def distance(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def assert_steps_see_the_same(family, spec, cache, exported, tiny_directory, token_prompts, kvtool):
    """Rows above the first layer tell what the queries below saw. Noise of float32 may move a
    number over the border between two codes; that is a small part of what quantizing does."""
    kvtool.ok("save", "--model", exported(family).path, "--prompts", token_prompts,
              "--batch-size", 3, "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu",
              "--kv-cache", spec, "--out", "ref_cache")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_directory(family), dtype=torch.float32, attn_implementation="eager").eval()
    for index, line in enumerate(token_prompts.read_text().splitlines()):
        recording = next(kvtool.directory.glob(f"ref_cache/CPU/*/batch3_input{index}.kvc"))
        target = kvtool.directory / f"{index}.safetensors"
        kvtool.ok("dump", recording, "--step", NEW_TOKENS - 2, "--to", target)
        dumped = load_file(target)
        ids = json.loads(line)["token_ids"]
        answer = dumped["tokens"].tolist()[len(ids) : len(ids) + NEW_TOKENS - 1]
        theirs = rows(model, ids, answer, cache())
        whole = rows(model, ids, answer, transformers.DynamicCache())
        for layer in range(1, len(theirs)):
            for name, own, other in zip(("key", "value"), theirs[layer], whole[layer]):
                quantized = distance(own, other)
                assert quantized > 1e-6
                ours = distance(dumped[f"{name}.{layer}"], own)
                assert ours < max(1e-5, 0.05 * quantized), f"{name}.{layer}"


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_kivi(family, bits, exported, tiny_directory, token_prompts, kvtool):
    for line in token_prompts.read_text().splitlines():
        assert settled(len(json.loads(line)["token_ids"]) + NEW_TOKENS - 1) > 0
    assert_steps_see_the_same(family, f"kivi:k={bits},v={bits},{SPEC}", lambda: KiviCache(bits),
                              exported, tiny_directory, token_prompts, kvtool)


@pytest.mark.parametrize("name, dtype", [("e4m3", torch.float8_e4m3fn),
                                         ("e5m2", torch.float8_e5m2)])
@pytest.mark.parametrize("per", ["head", "tensor"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fp8(family, per, name, dtype, exported, tiny_directory, token_prompts, kvtool):
    assert_steps_see_the_same(family, f"fp8:type={name},per={per}",
                              lambda: Fp8Cache(dtype, per == "head"), exported, tiny_directory,
                              token_prompts, kvtool)
