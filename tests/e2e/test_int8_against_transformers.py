"""--kv-cache int8 against transformers with a cache that rounds the same way (docs/caches.md).

The rounding here is the formula in torch, written without the engine's code; attention and
everything else are transformers' own.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

NEW_TOKENS = 24
# Layers of SmolLM2 that few moved codes have reached. The tokens speak for those above.
COMPARED_LAYERS = 4
# Grouped heads; one K/V head; window and soft cap.
FAMILIES = ["llama", "gpt_bigcode", "gemma2"]


def scales(rows):
    """Of each row, the last dimension of `rows`: [..., 1]."""
    return rows.abs().amax(-1, keepdim=True) / 127


def rounded(rows):
    scale = scales(rows)
    codes = torch.where(scale > 0, torch.round(rows / scale), torch.zeros_like(rows))
    assert codes.abs().max() <= 127
    return codes * scale


class Int8Cache(transformers.DynamicCache):
    """Keeps, and shows every query, what 8 bits leave of each row."""

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        return super().update(rounded(key_states), rounded(value_states), layer_idx, *args,
                              **kwargs)


def run(model, ids, answer, cache):
    """Feeds the prompt and then token by token; the token after each."""
    chosen = []
    with torch.no_grad():
        logits = model(torch.tensor([ids]), past_key_values=cache).logits
        chosen.append(int(logits[0, -1].argmax()))
        for step in range(NEW_TOKENS - 1):
            token = chosen[-1] if answer is None else answer[step]
            logits = model(torch.tensor([[token]]), past_key_values=cache).logits
            chosen.append(int(logits[0, -1].argmax()))
    return chosen


def rows_of(dumped, cache, layer):
    for name, tensors in (("key", cache.layers[layer].keys), ("value", cache.layers[layer].values)):
        yield name, dumped[f"{name}.{layer}"], tensors[0]


def assert_same_codes(ours, theirs, where):
    """Noise of float32 may move a number over the border between two codes, by one code; one
    such number then moves up to some percent of the layers above it (2.4 % of a tiny Llama's
    second layer). Where a query saw its own row as it was before rounding, 9 % would move."""
    assert ours.shape == theirs.shape
    codes, scale = ours / scales(ours), scales(theirs)
    assert (codes - codes.round()).abs().max() < 1e-3, f"{where}: not on the grid"
    assert (scales(ours) / scale - 1).abs().max() < 0.01, where
    moved = (codes.round() - (theirs / scale).round()).abs()
    assert moved.max() <= 1, where
    assert (moved > 0).float().mean() < 0.05, where


@pytest.fixture(scope="module")
def answers(smollm2_float32, demo_prompts):
    """Of each demo prompt: ids, tokens and cache, as transformers has them with Int8Cache."""
    model, tokenizer = smollm2_float32.transformers()
    found = []
    for line in demo_prompts.read_text().splitlines()[:4]:
        entry = json.loads(line)
        ids = (tokenizer(entry["text"])["input_ids"] if "text" in entry else
               tokenizer.apply_chat_template(entry["messages"], add_generation_prompt=True,
                                             return_dict=False))
        cache = Int8Cache()
        found.append((ids, run(model, ids, None, cache), cache))
    return found


@pytest.mark.parametrize("batch_size", [1, 4])
def test_tokens_are_those_of_transformers(batch_size, smollm2_float32, answers, kvtool):
    prompts = kvtool.prompts([{"token_ids": ids} for ids, _, _ in answers])
    report = kvtool.json("generate", "--model", smollm2_float32.path, "--prompts", prompts,
                         "--batch-size", batch_size, "--max-new-tokens", NEW_TOKENS,
                         "--ignore-eos", "--device", "cpu", "--kv-cache", "int8")
    assert len(report["results"]) == len(answers)
    for result, (_, tokens, _) in zip(report["results"], answers):
        assert result["generated"]["tokens"] == tokens, result["name"]


def test_the_cache_holds_what_transformers_holds(smollm2_float32, answers, kvtool):
    prompts = kvtool.prompts([{"token_ids": ids} for ids, _, _ in answers])
    kvtool.ok("save", "--model", smollm2_float32.path, "--prompts", prompts, "--batch-size", 4,
              "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu",
              "--kv-cache", "int8", "--out", "ref_cache")
    for index, (ids, _, cache) in enumerate(answers):
        recording = next(kvtool.directory.glob(f"ref_cache/CPU/*/batch4_input{index}.kvc"))
        target = kvtool.directory / f"{index}.safetensors"
        kvtool.ok("dump", recording, "--step", NEW_TOKENS - 2, "--to", target)
        dumped = load_file(target)
        for layer in range(COMPARED_LAYERS):
            for name, ours, theirs in rows_of(dumped, cache, layer):
                assert_same_codes(ours, theirs, f"input {index}, {name}.{layer}")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_attention_sees_the_rounded_rows(family, exported, tiny_directory, token_prompts,
                                               kvtool):
    kvtool.ok("save", "--model", exported(family).path, "--prompts", token_prompts,
              "--batch-size", 3, "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu",
              "--kv-cache", "int8", "--out", "ref_cache")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_directory(family), dtype=torch.float32, attn_implementation="eager").eval()
    for index, line in enumerate(token_prompts.read_text().splitlines()):
        recording = next(kvtool.directory.glob(f"ref_cache/CPU/*/batch3_input{index}.kvc"))
        target = kvtool.directory / f"{index}.safetensors"
        kvtool.ok("dump", recording, "--step", NEW_TOKENS - 2, "--to", target)
        dumped = load_file(target)
        ids = json.loads(line)["token_ids"]
        cache = Int8Cache()
        run(model, ids, dumped["tokens"].tolist()[len(ids):], cache)
        for layer in range(len(cache.layers)):
            for name, ours, theirs in rows_of(dumped, cache, layer):
                assert_same_codes(ours, theirs, f"input {index}, {name}.{layer}")


def test_keys_and_values_of_different_sizes(exported, tiny_directory, token_prompts, kvtool):
    """transformers' cache of DeepSeek-V3 holds latents: the rows are rounded, and looked at,
    where its attention gets them."""
    kvtool.ok("save", "--model", exported("deepseek_v3").path, "--prompts", token_prompts,
              "--batch-size", 3, "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu",
              "--kv-cache", "int8", "--out", "ref_cache")
    eager = transformers.models.deepseek_v3.modeling_deepseek_v3.eager_attention_forward
    seen = {}

    def attend(module, query, key, value, *args, **kwargs):
        seen[module.layer_idx] = {"key": rounded(key), "value": rounded(value)}
        return eager(module, query, rounded(key), rounded(value), *args, **kwargs)

    transformers.AttentionInterface.register("int8_rows", attend)
    transformers.AttentionMaskInterface.register(
        "int8_rows", transformers.masking_utils.eager_mask)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_directory("deepseek_v3"), dtype=torch.float32, attn_implementation="int8_rows").eval()
    recording = next(kvtool.directory.glob("ref_cache/CPU/*/batch3_input0.kvc"))
    target = kvtool.directory / "rows.safetensors"
    kvtool.ok("dump", recording, "--step", NEW_TOKENS - 2, "--to", target)
    dumped = load_file(target)
    with torch.no_grad():
        model(dumped["tokens"][None, :-1], use_cache=False)
    assert dumped["key.0"].shape[-1] != dumped["value.0"].shape[-1]
    for layer, rows in seen.items():
        for name, theirs in rows.items():
            assert_same_codes(dumped[f"{name}.{layer}"], theirs[0], f"{name}.{layer}")


def test_the_error_that_a_replay_reports_is_the_rounding(smollm2_float32, answers, kvtool):
    """Rows of the first layer depend on the token alone, so that a replay of a contiguous
    recording with int8 is away from it by the rounding of the recorded rows."""
    ids = answers[0][0]
    kvtool.ok("save", "--model", smollm2_float32.path, "--max-new-tokens", NEW_TOKENS,
              "--prompts", kvtool.prompts([{"token_ids": ids}]), "--device", "cpu",
              "--ignore-eos", "--out", "ref_cache")
    report = kvtool.json("replay", "--from", "CPU", "--model", smollm2_float32.path,
                         "--kv-cache", "int8", "--mode", "inject")
    (verdict,) = report["verdicts"]
    assert (verdict["reference_cache"], verdict["cache"]) == ("contiguous", "int8")
    assert [each["key"] for each in verdict["provenance"]] == ["cache"]
    recording = next(kvtool.directory.glob("ref_cache/CPU/*/batch1_input0.kvc"))
    target = kvtool.directory / "rows.safetensors"
    kvtool.ok("dump", recording, "--step", NEW_TOKENS - 2, "--to", target)
    dumped = load_file(target)
    for kind in ("key", "value"):
        rows = dumped[f"{kind}.0"].double()  # [heads, positions, dim]
        for stretch, part in (("prefill", rows[:, :len(ids)]), ("steps", rows[:, len(ids):])):
            expected = ((rounded(part) - part).norm() / part.norm()).item()
            kv = verdict["prefill"]["kv"] if stretch == "prefill" else verdict["modes"][0]["kv"]
            measured = kv[kind]["layers"]["relative_l2"][0]
            assert measured == pytest.approx(expected, rel=1e-3), f"{kind} of {stretch}"
