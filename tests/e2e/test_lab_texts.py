"""kvtool lab --perplexity against transformers: the same windows in one pass with a mask."""

import math

import numpy as np
import pytest
import torch
import transformers

TOKENS = [(11 * i * i + 5 * i) % 90 + 3 for i in range(64)]
CONTEXT, PREFIX = 30, 10
SINKS, RECENT = 2, 6


def losses(model, window, visible):
    """Negative log likelihoods of window[PREFIX:], each query seeing the keys of visible."""
    length = len(window)
    mask = torch.full((1, 1, length, length), torch.finfo(torch.float32).min)
    for query in range(length):
        for key in range(query + 1):
            if visible(query, key):
                mask[0, 0, query, key] = 0.0
    with torch.inference_mode():
        logits = model(torch.tensor([window]), attention_mask=mask).logits[0].double()
    expected = torch.log_softmax(logits, -1)
    return [-expected[at - 1, window[at]].item() for at in range(PREFIX, length)]


@pytest.fixture
def model(tiny_directory):
    return transformers.AutoModelForCausalLM.from_pretrained(
        tiny_directory("llama"), dtype=torch.float32, attn_implementation="eager").eval()


def test_perplexity_is_that_of_transformers(kvtool, exported, model):
    path = exported("llama").path
    kvtool.ok("save", "--model", path, "--device", "cpu",
              "--prompts", kvtool.prompts([{"token_ids": TOKENS}]), "--max-new-tokens", 3,
              "--ignore-eos", "--out", "ref_cache")
    spec = f"window:sinks={SINKS},recent={RECENT}"
    (lab,) = kvtool.json("lab", "--from", "CPU", "--model", path, "--device", "cpu", "--rows",
                         "none", "--policy", spec, "--perplexity", "--context", CONTEXT,
                         "--prefix", PREFIX)["labs"]
    (perplexity,) = lab["perplexity"]
    rows = {row["name"]: row for row in perplexity["rows"]}
    windows = [TOKENS[:CONTEXT], TOKENS[CONTEXT:2 * CONTEXT]]
    full = np.concatenate([losses(model, window, lambda query, key: True) for window in windows])
    hidden = np.concatenate([losses(
        model, window, lambda query, key: key < SINKS or query - key < RECENT)
        for window in windows])
    assert perplexity["windows"] == 2
    assert perplexity["scored_tokens"] == len(full) == 2 * (CONTEXT - PREFIX)
    for name, expected in (("full", full), (spec, hidden)):
        assert rows[name]["tokens"] == len(expected)
        assert math.log(rows[name]["perplexity"]) == pytest.approx(expected.mean(), abs=1e-4)
    difference = hidden - full
    half = 1.959964 * difference.std(ddof=1) / math.sqrt(len(difference))
    row = rows[spec]
    assert abs(difference.mean()) > 1e-3  # or the rest says nothing
    assert math.log1p(row["increase"]) == pytest.approx(difference.mean(), abs=1e-4)
    assert math.log1p(row["increase_low95"]) == pytest.approx(difference.mean() - half, abs=1e-4)
    assert math.log1p(row["increase_high95"]) == pytest.approx(difference.mean() + half, abs=1e-4)
    assert row["acted"] and row["seen_share"] < 1
