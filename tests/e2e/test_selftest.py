"""selftest: every fault in a real engine's cache is caught, and a gate that lets one pass fails."""

import json

import pytest

# A cache with K/V of different widths, one with two KV heads, one with a window.
FAMILIES = ["llama", "gemma2", "deepseek_v3"]


def selftest(kvtool, model, *options, expect=0):
    length = () if "--from" in options else ("--max-new-tokens", 12)
    report = kvtool.json("selftest", "--model", model, "--device", "cpu", *length, *options,
                         expect=expect)
    (result,) = report["selftests"]
    return result


def faults(result):
    return {fault["name"]: fault for fault in result["faults"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_fault_is_caught(family, exported, kvtool):
    result = selftest(kvtool, exported(family).path, "--quick")
    assert result["passed"] and result["control"]["passed"]
    assert result["gate"] == "fp32-cross"
    assert len(result["faults"]) == 6
    for fault in result["faults"]:
        assert fault["skipped"] is None and fault["caught"], fault
        assert fault["located"], fault


@pytest.fixture
def recorded(kvtool, token_prompts):
    """Model -> label of recordings of three inputs of unlike lengths, in one batch."""

    def record(model):
        kvtool.ok("save", "--model", model, "--prompts", token_prompts, "--batch-size", 3,
                  "--device", "cpu", "--max-new-tokens", 12, "--ignore-eos", "--out", "ref_cache")
        return "CPU"

    return record


SHAPES = {"batch 1": ("--batch", "1"), "parallel": ("--parallel",)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_fault_is_caught_in_other_shapes(family, shape, exported, kvtool, recorded):
    model = exported(family).path
    options = ("--from", recorded(model), "--quick", "--mode", "inject,forced")
    steps = selftest(kvtool, model, *options)
    result = selftest(kvtool, model, *options, *SHAPES[shape])
    assert result["passed"] and result["control"]["passed"]
    assert result["parallel"] is (shape == "parallel")
    assert result["inputs"] == 3
    for fault in result["faults"]:
        assert fault["skipped"] is None and fault["caught"] and fault["located"], fault
    expected = figures_that_failed(steps)
    found = figures_that_failed(result)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        # Every batch has a NaN in its first row: three batches of one input, one of all else.
        if not (shape == "batch 1" and name[0] == "nonfinite"):
            assert found[name] == pytest.approx(value, rel=0.02), name


def figures_that_failed(result):
    """Fault and figure -> its value, of the figures that float32's rounding does not decide."""
    return {
        (fault["name"], rule["figure"]): rule["measured"]
        for fault in result["faults"]
        for rule in fault["failed_rules"]
        if rule["figure"].startswith(("inject.kv.", "forced.kv."))
        and not rule["figure"].endswith(".rerouted_rate")  # what stands out of the noise
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_a_device_that_the_gate_cannot_stand_fails_the_control_in_other_shapes(
        shape, exported, kvtool, recorded):  # fmt: skip
    model = exported("llama").path
    result = selftest(kvtool, model, "--quick", "--from", recorded(model), "--gate", "same-device",
                      *SHAPES[shape], expect=1)
    assert not result["control"]["passed"]


def test_a_parallel_selftest_refuses_the_mode_free(exported, kvtool):
    done = kvtool.run("selftest", "--model", exported("llama").path, "--device", "cpu", "--quick",
                      "--parallel", "--mode", "free")
    assert done.returncode == 2
    assert "the mode free cannot run in parallel" in done.stderr


def test_every_fault_is_caught_in_bfloat16(exported, kvtool):
    result = selftest(kvtool, exported("llama", "bfloat16").path)
    assert result["passed"]
    assert result["gate"] == "16bit-cross"
    scaled = faults(result)["scaled-values"]
    # Smaller ones round away: the next value above 1 is 1.0078.
    assert 2e-4 < scaled["smallest_caught"] <= 0.01
    assert scaled["largest_missed"] < scaled["smallest_caught"]


def test_one_kv_head_cannot_be_swapped(exported, kvtool):
    result = selftest(kvtool, exported("gpt_bigcode").path, "--quick")
    assert result["passed"]
    assert "one KV head" in faults(result)["swapped-heads"]["skipped"]
    assert faults(result)["rotated-keys"]["caught"]


def test_layers_without_rotary_positions_are_avoided(exported, kvtool):
    result = selftest(kvtool, exported("smollm3").path, "--quick")
    assert result["passed"]
    # The middle layer, 1 of 2, has none.
    rotated = faults(result)["rotated-keys"]
    assert rotated["caught"] and rotated["located"]
    assert "layer 0" in rotated["description"]


def test_a_lax_gate_fails(exported, kvtool):
    gate = kvtool.directory / "lax.json"
    gate.write_text(json.dumps({"name": "lax", "rules": {"inject.tokens.match_rate": {"min": 0}}}))
    result = selftest(kvtool, exported("llama").path, "--quick", "--gate", gate, expect=1)
    assert result["control"]["passed"] and not result["passed"]
    assert not faults(result)["scaled-values"]["caught"]


def test_a_device_that_the_gate_cannot_stand_fails_the_control(exported, kvtool, recorded):
    model = exported("llama").path
    result = selftest(kvtool, model, "--quick", "--from", recorded(model), "--cpu-isa", "sse41",
                      "--gate", "same-device", expect=1)
    assert not result["control"]["passed"]
    assert result["inputs"] == 3


def test_leaves_no_reference_behind(exported, kvtool, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    kvtool.ok("selftest", "--model", exported("llama").path, "--device", "cpu", "--quick",
              env={"TMPDIR": str(temporary)})
    assert list(temporary.iterdir()) == []
