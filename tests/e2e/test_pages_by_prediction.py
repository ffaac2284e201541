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


def test_every_page_that_a_step_read_was_there_or_late_or_missing(generate):
    for residency in ("lru", "predictive", "predictive,prefetch=0"):
        _, used = generate(residency)
        pages = used["pages"]
        assert pages["demands"] == pages["hits"] + pages["late"] + pages["misses"]
        assert pages["hit_rate"] == pages["hits"] / pages["demands"]
        # Prompts fit, so that no page is read from host memory that was not on the device before.
        assert pages["misses"] == used["read_back"]
        # Without the page that is written, of each of two inputs in each of the layers.
        layers = 2
        assert pages["demands"] - pages["inner_demands"] == 2 * layers * (NEW_TOKENS - 1)
        assert pages["inner_hits"] == pages["hits"] - (pages["demands"] - pages["inner_demands"])
        assert pages["miss_wait_seconds"] > 0 and pages["write_wait_seconds"] > 0
        if used["prefetched"] == 0:
            assert pages["late"] == pages["late_wait_seconds"] == 0
            assert pages["prefetch_precision"] is pages["prefetch_coverage"] is None
            continue
        used_ahead = used["prefetch_hits"]
        assert pages["prefetch_precision"] == used_ahead / used["prefetched"]
        assert pages["prefetch_coverage"] == used_ahead / (used_ahead + pages["misses"])
        assert pages["prefetch_timeliness"] == (used_ahead - pages["late"]) / used_ahead
        page_bytes = 4 * 2 * 16 * 2 * 4
        assert pages["prefetch_wasted_bytes"] == (used["prefetched"] - used_ahead) * page_bytes


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
