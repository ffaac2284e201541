"""kvtool bench cache on tiny models, and prompts cut out of a text: what is said, not how fast."""

import pytest

# Heads of their own, and heads that share K and V.
FAMILIES = ["gpt2", "llama"]
NEW_TOKENS = 6


def bench(kvtool, model, *options, expect=0):
    common = ["bench", "cache", "--model", model.path, "--device", "cpu", "--repeats", 2]
    report = kvtool.json(*common, "--max-new-tokens", NEW_TOKENS, *options, expect=expect)
    (result,) = report["cache_benches"]
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_both_sides_write_the_same_tokens(kvtool, exported, family):
    result = bench(kvtool, exported(family), "--context", "1,16,64")
    assert result["passed"] and result["dtype"] == "float32"
    for length in result["lengths"]:
        context = length["context"]
        assert length["difference"] is None
        assert length["positions"] == context + NEW_TOKENS - 1
        assert length["without_cache"]["tokens_passed"] == sum(
            range(context, context + NEW_TOKENS)
        )
        for side in ("with_cache", "without_cache"):
            assert len(length[side]["following_ms"]["values"]) == 2 * (NEW_TOKENS - 1)
            assert length[side]["repeatable"]
            assert length[side]["memory"]["source"] == "resident set of the process"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bytes_are_those_of_the_formula_and_nothing_is_copied(kvtool, exported, family):
    model = exported(family)
    heads = {"gpt2": 4, "llama": 2}[family]
    result = bench(kvtool, model, "--context", 32)
    (length,) = result["lengths"]
    assert length["allocated_bytes"] == 2 * heads * (32 + NEW_TOKENS - 1) * 16 * 2 * 4
    assert length["allocated_bytes"] == length["planned_bytes"] == length["kv_bytes"]
    assert length["kv_copies_per_step"] == 0
    assert length["with_cache"]["memory"]["tensor_bytes"] >= length["allocated_bytes"]


@pytest.mark.parametrize("spec", ["int8", "kivi:residual=4,group=4", "fp8"])
def test_other_caches_take_what_they_plan(kvtool, exported, spec):
    result = bench(kvtool, exported("llama"), "--context", 48, "--kv-cache", spec)
    (length,) = result["lengths"]
    assert length["applied_rows"] > 0
    assert length["allocated_bytes"] == length["planned_bytes"]


def test_sixteen_bits_run(kvtool, exported):
    result = bench(kvtool, exported("llama", "bfloat16"), "--context", 48)
    assert result["dtype"] == "bfloat16"


def test_a_text_is_cut_to_its_first_tokens(kvtool, exported, tokenizer_of, tmp_path):
    model = exported("llama")
    text = "The cache keeps one key and one value row for every position. " * 5
    (tmp_path / "book.txt").write_text(text)
    ids = tokenizer_of(model)(text)["input_ids"]
    saved = ["save", "--model", model.path, "--text", tmp_path / "book.txt", "--out", "rec"]
    report = kvtool.json(*saved, "--context", "7,30", "--max-new-tokens", 2)
    assert [result["prompt"]["tokens"] for result in report["results"]] == [7, 30]
    cut = tokenizer_of(model).decode(ids[:30], skip_special_tokens=True)
    assert cut and report["results"][1]["prompt"]["text"].endswith(cut)
    too_long = [*saved, "--context", len(ids) + 1, "--force"]
    done = kvtool.run(*too_long)
    assert done.returncode == 2
    assert f"the text has only {len(ids)} tokens" in done.stderr
    result = bench(kvtool, model, "--text", tmp_path / "book.txt", "--context", 20)
    assert result["prompts"] == str(tmp_path / "book.txt")
