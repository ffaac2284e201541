"""Pages that come back ahead of the steps that may use them: the same numbers, other traffic."""

import random

import pytest

SELECT = "select=quest,budget=25%,sinks=0,recent=1,dense=0"
PAGED = f"paged:page=4,device=40%,check=1,{SELECT},residency="
NEW_TOKENS = 70


@pytest.fixture
def generate(kvtool, exported):
    ids = random.Random(5)
    inputs = [[ids.randrange(3, 60) for _ in range(length)] for length in (30, 40)]
    prompts = kvtool.prompts([{"token_ids": tokens} for tokens in inputs])
    options = ["--model", exported("llama").path, "--prompts", prompts, "--batch-size", 2]
    options += ["--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu"]

    def get(residency):
        report = kvtool.json("generate", *options, "--kv-cache", PAGED + residency)
        (used,) = report["summary"]["caches"]
        return [result["generated"]["tokens"] for result in report["results"]], used

    return get


@pytest.mark.parametrize("rank", ["mass", "frequency", "confidence"])
def test_pages_come_ahead_and_no_token_changes(generate, rank):
    plain, lru = generate("lru")
    predicted, used = generate(f"predictive,rank={rank}")
    assert predicted == plain
    assert lru["prefetched"] == lru["prefetch_hits"] == 0
    assert 0 < used["prefetch_hits"] <= used["prefetched"]
    # Prompts fit: each page goes to host memory once; then comes what was needed, and ahead.
    page_bytes = (lru["moved_bytes"] - used["moved_bytes"]) / (
        lru["read_back"] - used["read_back"] - used["prefetched"]
    )
    assert page_bytes == 4 * 2 * 16 * 2 * 4


def test_with_no_page_ahead_it_only_decides_what_stays(generate):
    plain, _ = generate("lru")
    kept, used = generate("predictive,prefetch=0")
    assert kept == plain
    assert used["prefetched"] == 0 and used["read_back"] > 0


def test_its_options_are_refused_without_it(kvtool, exported, token_prompts):
    done = kvtool.run(
        *("generate", "--model", exported("llama").path, "--prompts", token_prompts),
        *("--kv-cache", "paged:prefetch=4"),
    )
    assert done.returncode == 2
    assert "'prefetch' does nothing without residency=predictive" in done.stderr
