"""A really different device on the same machine: an instruction-set limit."""

import pytest


def supports_avx512_bf16() -> bool:
    with open("/proc/cpuinfo") as cpuinfo:
        return "avx512_bf16" in cpuinfo.read()


def test_avx2_flips_only_ties_under_injection(smollm2, demo_prompts, kvtool):
    if not supports_avx512_bf16():
        pytest.skip("the CPU has no AVX-512 bf16: AVX2 is no other device here")
    kvtool.ok("save", "--model", smollm2.path, "--prompts", demo_prompts,
              "--batch-size", 4, "--max-new-tokens", 64, "--device", "cpu", "--out", "ref_cache")
    same = kvtool.json("replay", "--model", smollm2.path, "--from", "CPU", "--device", "cpu")
    assert same["summary"]["replay"]["inputs_bitwise_equal"] == 8
    other = kvtool.json("replay", "--model", smollm2.path, "--from", "CPU", "--device", "cpu",
                        "--cpu-isa", "avx2")
    summary = other["summary"]["replay"]
    assert summary["inputs_bitwise_equal"] == 0
    assert summary["hard_flips"] == 0
    assert 1e-4 < summary["step_kv"]["relative_l2"] < 0.05
    assert other["device"]["provenance"]["cpu_isa"] == "AVX2"
