"""Recordings of one model replayed on another: FP8 against FP16 is such a pair, and so is
float32 against bfloat16, whose K/V and logits have other types as well."""


def record(kvtool, model, prompts):
    kvtool.ok("save", "--model", model, "--prompts", prompts, "--batch-size", 3, "--device", "cpu",
              "--max-new-tokens", 12, "--ignore-eos", "--out", "ref_cache")


def replay(*options):
    return ("replay", "--from", "CPU", "--device", "cpu", *options)


def test_other_weights_are_refused_and_both_are_named(exported, kvtool, token_prompts):
    record(kvtool, exported("llama").path, token_prompts)
    done = kvtool.run(*replay("--model", exported("llama", "bfloat16").path))
    assert done.returncode == 3
    assert exported("llama").metadata["weights_sha256"] in done.stderr
    assert exported("llama", "bfloat16").metadata["weights_sha256"] in done.stderr


def test_other_types_are_converted_and_every_report_says_so(exported, kvtool, token_prompts):
    record(kvtool, exported("llama").path, token_prompts)
    lenient = kvtool.directory / "gate.json"
    lenient.write_text('{"rules": {"*.tokens.hard_flips": null, "*.tokens.tie_rate": null,'
                       ' "inject.kv.key.layer_max.relative_l2": {"max": 0.05}}}')
    report = kvtool.json(*replay("--model", exported("llama", "bfloat16").path,
                                 "--allow-different-weights", "--gate", lenient,
                                 "--mode", "inject,forced", "--markdown", "r.md",
                                 "--html", "r.html", "--junit", "r.xml"))
    (verdict,) = report["verdicts"]
    assert verdict["different_weights"]
    assert all(result["replay"]["different_weights"] for result in report["results"])
    # Rounding the model to bfloat16 shows in K, and is no more than that.
    assert 1e-4 < kvtool.figures(report)["inject.kv.key.relative_l2"] < 0.05
    for file in ("r.md", "r.html", "r.xml"):
        assert "different weights" in (kvtool.directory / file).read_text().lower(), file


def test_another_shape_is_refused_even_then(exported, kvtool, token_prompts):
    record(kvtool, exported("llama").path, token_prompts)
    done = kvtool.run(*replay("--model", exported("gpt_bigcode").path,
                              "--allow-different-weights"))
    assert done.returncode == 3
