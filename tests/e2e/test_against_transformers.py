"""SmolLM2 in float32: the tokens of transformers' generate, the K/V of its cache, its logits."""

import json

import pytest
import torch
import transformers
from kvc import Recording
from kvc_values import sample_ids
from safetensors.torch import load_file

NEW_TOKENS = 24


def generated(report):
    return {result["input"]: result["generated"]["tokens"] for result in report["results"]}


@pytest.fixture(scope="module")
def reference(smollm2_float32, demo_prompts):
    """Per demo prompt: (prompt ids, generated ids) of transformers, one at a time."""
    model, tokenizer = smollm2_float32.transformers()
    answers = []
    for line in demo_prompts.read_text().splitlines():
        entry = json.loads(line)
        if "messages" in entry:
            ids = tokenizer.apply_chat_template(entry["messages"], add_generation_prompt=True,
                                                return_dict=False)
        else:
            ids = tokenizer(entry["text"])["input_ids"]
        with torch.no_grad():
            full = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False,
                                  attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        answers.append((ids, full[0, len(ids):].tolist()))
    return answers


@pytest.mark.parametrize("batch_size", [1, 4])
def test_tokens_equal_transformers_generate(batch_size, smollm2_float32, demo_prompts, reference,
                                            kvtool):
    report = kvtool.json("generate", "--model", smollm2_float32.path, "--prompts", demo_prompts,
                         "--batch-size", batch_size, "--max-new-tokens", NEW_TOKENS,
                         "--device", "cpu")
    tokens = generated(report)
    assert len(tokens) == len(reference) == 8
    for index, (ids, expected) in enumerate(reference):
        assert report["results"][index]["prompt"]["tokens"] == len(ids)
        assert tokens[index] == expected, f"input {index}"


def test_dumped_cache_equals_dynamic_cache(smollm2_float32, demo_prompts, reference, kvtool):
    kvtool.ok("save", "--model", smollm2_float32.path, "--prompts", demo_prompts,
              "--batch-size", 4, "--max-new-tokens", NEW_TOKENS, "--device", "cpu",
              "--out", "ref_cache")
    model, _ = smollm2_float32.transformers()
    for index in (0, 3, 5):
        ids, answer = reference[index]
        step = len(answer) - 2
        recording = next(kvtool.directory.glob(f"ref_cache/CPU/*/batch4_input{index}.kvc"))
        target = kvtool.directory / f"{index}.safetensors"
        kvtool.ok("dump", recording, "--step", step, "--to", target)
        dumped = load_file(target)
        # The cache as transformers builds it: prompt, then token by token.
        cache = transformers.DynamicCache()
        with torch.no_grad():
            model(torch.tensor([ids]), past_key_values=cache)
            for token in answer[:-1]:
                model(torch.tensor([[token]]), past_key_values=cache)
        assert dumped["tokens"].tolist() == ids + answer
        for layer in range(model.config.num_hidden_layers):
            for name, tensor in (("key", cache.layers[layer].keys[0]),
                                 ("value", cache.layers[layer].values[0])):
                ours = dumped[f"{name}.{layer}"]
                assert ours.shape == tensor.shape
                error = (ours - tensor).abs().max() / tensor.abs().max()
                assert error <= 1e-4, f"input {index}, {name}.{layer}: {error}"


def test_sampled_logits_equal_those_at_the_ids_of_the_format_page(
        smollm2_float32, demo_prompts, reference, kvtool):
    kvtool.ok("save", "--model", smollm2_float32.path, "--prompts", demo_prompts,
              "--batch-size", 4, "--max-new-tokens", NEW_TOKENS, "--device", "cpu",
              "--out", "ref_cache")
    model, _ = smollm2_float32.transformers()
    for index in (0, 3, 5):
        ids, answer = reference[index]
        path = next(kvtool.directory.glob(f"ref_cache/CPU/*/batch4_input{index}.kvc"))
        recording = Recording(path)
        assert recording.header.sample == 64
        with torch.no_grad():
            logits = model(torch.tensor([ids + answer[:-1]])).logits[0, len(ids) - 1:]
        assert len(logits) == len(answer)
        for token, expected in enumerate(logits):
            found = recording.statistics(None if token == 0 else token - 1)
            sampled = expected[sample_ids(model.config.vocab_size, 64, token)]
            error = (torch.tensor(found.sample_logits) - sampled).abs().max()
            assert error <= 1e-4 * expected.abs().max(), f"input {index}, token {token}: {error}"
