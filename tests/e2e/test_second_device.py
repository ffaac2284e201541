"""A really different device on the same machine: an instruction-set limit."""

import pytest


def supports_avx512_bf16() -> bool:
    with open("/proc/cpuinfo") as cpuinfo:
        return "avx512_bf16" in cpuinfo.read()


def save(kvtool, smollm2, prompts, tokens=64):
    kvtool.ok("save", "--model", smollm2.path, "--prompts", prompts, "--batch-size", 4,
              "--max-new-tokens", tokens, "--device", "cpu", "--out", "ref_cache")


def test_same_device_is_bitwise_equal_in_all_modes(smollm2, demo_prompts, kvtool):
    save(kvtool, smollm2, demo_prompts, tokens=24)
    same = kvtool.json("replay", "--model", smollm2.path, "--from", "CPU", "--device", "cpu",
                       "--mode", "inject,forced,free", "--gate", "same-device")
    for mode in ("inject", "forced", "free"):
        assert kvtool.bitwise_equal_inputs(same, mode) == 8
    assert same["verdicts"][0]["finding"]["name"] == "reproducible"


def test_avx2_passes_the_cross_device_gate_with_only_ties(smollm2, demo_prompts, kvtool):
    if not supports_avx512_bf16():
        pytest.skip("the CPU has no AVX-512 bf16: AVX2 is no other device here")
    save(kvtool, smollm2, demo_prompts)
    other = kvtool.json("replay", "--model", smollm2.path, "--from", "CPU", "--device", "cpu",
                        "--cpu-isa", "avx2", "--mode", "inject,forced,free",
                        "--gate", "16bit-cross")
    figures = kvtool.figures(other)
    assert kvtool.bitwise_equal_inputs(other) == 0
    assert figures["inject.tokens.hard_flips"] == figures["prefill.tokens.hard_flips"] == 0
    # Noise on SmolLM2 is about half an ulp: what differs is a tie, and not more than noise makes.
    assert figures["inject.tokens.noise_flips"] == figures["inject.tokens.near_ties"] == 0
    assert figures["inject.tokens.flips_p"] > 1e-3
    assert 0.005 < figures["inject.logits.relative_noise"] < 0.05
    assert 1e-4 < figures["inject.kv.key.relative_l2"] < 0.05
    # Own K/V carries the differences of all steps before.
    assert figures["forced.amplification"] > 1
    # Own tokens part sooner or later.
    assert figures["free.tokens.agreed_fraction"] < 1
    assert other["device"]["provenance"]["cpu_isa"] == "AVX2"
    warned = {difference["label"] for difference in other["verdicts"][0]["provenance"]}
    assert any("instruction" in label.lower() or "isa" in label.lower() for label in warned)


def test_the_same_pair_fails_the_same_device_gate(smollm2, demo_prompts, kvtool):
    if not supports_avx512_bf16():
        pytest.skip("the CPU has no AVX-512 bf16: AVX2 is no other device here")
    save(kvtool, smollm2, demo_prompts, tokens=8)
    done = kvtool.run("replay", "--model", smollm2.path, "--from", "CPU", "--device", "cpu",
                      "--cpu-isa", "avx2", "--gate", "same-device")
    assert done.returncode == 1, done.stderr
    assert "inject.logits.bitwise_rate" in done.stdout
