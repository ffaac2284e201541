"""diff: the two-way scenario, reference and replay --save, compared without a model."""

import json
import os
import shutil

import pytest


def save(kvtool, model, prompts, out, *options):
    kvtool.ok("save", "--model", model, "--prompts", prompts, "--batch-size", 3, "--device", "cpu",
              "--max-new-tokens", 12, "--ignore-eos", "--out", out, *options)


def diff(kvtool, *arguments, expect=0):
    return kvtool.json("diff", *arguments, expect=expect)


@pytest.fixture
def both_ways(exported, kvtool, token_prompts):
    """What the device saw live while it recorded `own`, beside the folder `reference`."""
    model = exported("llama", "bfloat16").path
    save(kvtool, model, token_prompts, "reference")
    return kvtool.json("replay", "--model", model, "--from", "reference/CPU", "--device", "cpu",
                       "--cpu-isa", "sse41", "--save", "--out", "own")


def test_the_same_input_twice_is_bitwise_equal(exported, kvtool, token_prompts):
    model = exported("llama").path
    save(kvtool, model, token_prompts, "a")
    save(kvtool, model, token_prompts, "b")
    report = diff(kvtool, "a", "b")
    assert kvtool.bitwise_equal_inputs(report, "free") == 3
    assert report["summary"]["compared_bytes"] > 0


def test_gives_the_figures_of_the_live_replay(kvtool, both_ways):
    report = diff(kvtool, "reference", "own")
    live = kvtool.figures(both_ways)
    assert live["inject.kv.key.relative_l2"] > 0
    found = kvtool.figures(report)
    assert found.keys() == live.keys()
    for name in live:
        # A recording has its logits at its own top-k, a replay at all of the reference's.
        common_ids_alone = any(part in name for part in (".logits.", ".kl_estimate.", ".flips_"))
        tolerance = 0.02 if common_ids_alone else 1e-12
        assert found[name] == pytest.approx(live[name], rel=tolerance, nan_ok=True), name
    for ours, theirs in zip(report["results"], both_ways["results"], strict=True):
        tokens, live_tokens = kvtool.mode(ours)["tokens"], kvtool.mode(theirs)["tokens"]
        assert tokens.keys() == live_tokens.keys()
        for name in tokens.keys() - {"noise", "kl_estimate"}:
            assert tokens[name] == live_tokens[name], name


def test_a_gate_decides(kvtool, both_ways):
    report = diff(kvtool, "reference", "own", "--gate", "same-device", expect=1)
    assert not report["verdicts"][0]["passed"]
    gate = kvtool.directory / "gate.json"
    gate.write_text(json.dumps({"rules": {"inject.kv.*.layer_max.relative_l2": {"max": 0.5}}}))
    diff(kvtool, "reference", "own", "--gate", gate)


def test_needs_neither_engine_nor_torch(kvtool, both_ways):
    lonely = kvtool.directory / "bin"
    lonely.mkdir()
    shutil.copy(kvtool.binary, lonely / "kvtool")
    kvtool.binary = lonely / "kvtool"
    output = kvtool.ok("diff", "reference", "own", env={"KVTOOL_ENGINE_LIBRARY": "/nowhere"})
    assert "Compared" in output


def test_recordings_of_two_models_cannot_be_compared(exported, kvtool, token_prompts):
    save(kvtool, exported("llama").path, token_prompts, "a")
    save(kvtool, exported("mistral").path, token_prompts, "b")
    done = kvtool.run("diff", "a", "b")
    assert done.returncode == 3
    assert "a/CPU" in done.stderr and "b/CPU" in done.stderr


def test_two_dtypes_can_be_compared_on_request(exported, kvtool, token_prompts):
    save(kvtool, exported("llama").path, token_prompts, "a")
    save(kvtool, exported("llama", "bfloat16").path, token_prompts, "b")
    assert kvtool.run("diff", "a", "b").returncode == 3
    # Tokens may flip for good; the exit status is the gate's.
    done = kvtool.run("diff", "a", "b", "--allow-different-weights", "--json", "report.json")
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((kvtool.directory / "report.json").read_text())
    assert report["verdicts"][0]["different_weights"]
    assert 1e-4 < kvtool.figures(report)["prefill.kv.value.relative_l2"] < 0.5


def test_a_damaged_recording_is_named(kvtool, both_ways):
    path = sorted((kvtool.directory / "own").rglob("*.kvc"))[1]
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    done = kvtool.run("diff", "reference", "own")
    assert done.returncode == 4
    assert path.name in done.stderr


def test_a_missing_partner_fails(kvtool, both_ways):
    path = sorted((kvtool.directory / "own").rglob("*.kvc"))[1]
    path.unlink()
    report = diff(kvtool, "reference", "own", expect=1)
    assert len(report["results"]) == 2


def test_a_truncated_recording_is_compared_up_to_its_end(kvtool, both_ways):
    path = sorted((kvtool.directory / "own").rglob("*.kvc"))[0]
    os.truncate(path, os.path.getsize(path) * 3 // 4)
    done = kvtool.run("diff", "reference", "own")
    assert done.returncode == 0, done.stderr
    assert "is truncated" in done.stderr


def test_every_report_can_be_written(kvtool, both_ways):
    kvtool.ok("diff", "reference", "own", "--junit", "diff.xml", "--markdown", "diff.md",
              "--html", "diff.html")
    for name in ("diff.xml", "diff.md", "diff.html"):
        assert "batch3_input1" in (kvtool.directory / name).read_text(), name
