"""A parallel replay judges as the replay step by step does, up to ties."""

import pytest

# One of each kind of attention: grouped, softcap and window, sinks, Dk unlike Dv,
# one KV head, learned positions, experts.
FAMILIES = ["llama", "gemma2", "gpt_oss", "deepseek_v3", "gpt_bigcode", "gpt2", "mixtral"]


def replay(kvtool, model, *options):
    return kvtool.json("replay", "--model", model, "--from", "CPU", "--device", "cpu", *options)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_its_steps_in_float32(family, exported, token_prompts, kvtool):
    model = exported(family).path
    kvtool.ok("save", "--model", model, "--prompts", token_prompts, "--batch-size", 2,
              "--max-new-tokens", 24, "--ignore-eos", "--device", "cpu", "--out", "ref_cache")
    result = replay(kvtool, model, "--parallel", "--mode", "inject,forced", "--gate", "fp32-cross")
    figures = kvtool.figures(result)
    assert result["verdicts"][0]["parallel"] is True
    for mode in ("inject", "forced"):
        assert figures[f"{mode}.tokens.hard_flips"] == 0
        assert figures[f"{mode}.kv.key.relative_l2"] < 1e-4
        assert figures[f"{mode}.kv.value.relative_l2"] < 1e-4


def test_the_real_model_gets_the_verdict_of_its_steps(smollm2, demo_prompts, kvtool):
    kvtool.ok("save", "--model", smollm2.path, "--prompts", demo_prompts, "--batch-size", 4,
              "--max-new-tokens", 64, "--device", "cpu", "--out", "ref_cache")
    stepwise = replay(kvtool, smollm2.path, "--gate", "16bit-cross")
    parallel = replay(kvtool, smollm2.path, "--gate", "16bit-cross", "--parallel")
    assert stepwise["verdicts"][0]["passed"] is parallel["verdicts"][0]["passed"] is True
    figures = kvtool.figures(parallel)
    assert figures["inject.tokens.hard_flips"] == 0
    assert figures["inject.tokens.compared"] == kvtool.figures(stepwise)["inject.tokens.compared"]
    # Other kernels compute it, so this is the noise of another device.
    assert 1e-4 < figures["inject.kv.key.relative_l2"] < 0.02
