"""Every family: exported, saved and replayed bit for bit on the same device."""

import pytest
from kvtool import tiny_models


def save_and_replay(kvtool, model, prompts, *options):
    kvtool.ok("save", "--model", model, "--prompts", prompts, "--batch-size", 3, "--device", "cpu",
              "--max-new-tokens", 12, "--ignore-eos", "--out", "ref_cache", *options)
    return kvtool.json("replay", "--model", model, "--from", "CPU", "--device", "cpu")


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_same_device_replay_is_bitwise_equal(family, exported, kvtool, token_prompts):
    report = save_and_replay(kvtool, exported(family).path, token_prompts)
    assert len(report["results"]) == 3
    for result in report["results"]:
        replay = kvtool.mode(result)
        assert replay["steps"] == replay["matches"] == 11
        assert replay["prefill_token_matches"]
        assert replay["tokens"]["logits_equal"] == [True] * 12
        for stretch in ("prefill_kv", "step_kv"):
            assert replay[stretch]["bitwise_equal"]
            assert replay[stretch]["key"]["elements"] > 0 < replay[stretch]["value"]["elements"]
        assert replay["bitwise_equal"]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_bfloat16_replay_is_bitwise_equal(family, exported, kvtool, token_prompts):
    report = save_and_replay(kvtool, exported(family, "bfloat16").path, token_prompts)
    assert kvtool.bitwise_equal_inputs(report) == 3


# What the recording holds is used: with other K/V the replay must notice.
def test_replay_of_a_foreign_cache_is_not_equal(exported, kvtool, token_prompts):
    model = exported("llama").path
    kvtool.ok("save", "--model", model, "--prompts", token_prompts, "--batch-size", 1,
              "--device", "cpu", "--max-new-tokens", 12, "--ignore-eos", "--out", "ref_cache")
    report = kvtool.json("replay", "--model", model, "--from", "CPU", "--device", "cpu",
                         "--cpu-isa", "sse41")
    assert kvtool.bitwise_equal_inputs(report) < 3
    assert kvtool.figures(report)["inject.kv.key.relative_l2"] < 1e-5


@pytest.mark.parametrize("mode", ["delta", "prefill_only", "final_only"])
def test_every_save_mode_replays_step_by_step(mode, exported, kvtool, token_prompts):
    report = save_and_replay(kvtool, exported("mistral").path, token_prompts, "--save-mode", mode)
    for result in report["results"]:
        replay = kvtool.mode(result)
        assert result["replay"]["save_mode"] == mode
        assert replay["steps"] == replay["matches"] == 11
        assert replay["tokens"]["logits_equal"] == [True] * 12
        assert replay["own_step_kv"] == (mode == "prefill_only")
        assert (replay["step_kv"] is None) == (mode == "prefill_only")


def test_prefill_only_says_that_steps_ran_on_own_rows(exported, kvtool, token_prompts):
    model = exported("llama").path
    save_and_replay(kvtool, model, token_prompts, "--save-mode", "prefill_only")
    output = kvtool.ok("replay", "--model", model, "--from", "CPU", "--device", "cpu")
    assert "this device's own K/V" in " ".join(output.split())


def test_single_input_replays_in_its_recorded_batch(exported, kvtool, token_prompts):
    model = exported("llama").path
    save_and_replay(kvtool, model, token_prompts)
    file = next(kvtool.directory.glob("ref_cache/CPU/*/batch3_input1.kvc"))
    report = kvtool.json("replay", "--model", model, "--from", file, "--device", "cpu")
    assert [result["input"] for result in report["results"]] == [1]
    assert report["results"][0]["rows"] == 3
    assert kvtool.bitwise_equal_inputs(report) == 1


def test_missing_rows_are_stood_in_for(exported, kvtool, token_prompts):
    model = exported("llama").path
    save_and_replay(kvtool, model, token_prompts)
    next(kvtool.directory.glob("ref_cache/CPU/*/batch3_input0.kvc")).unlink()
    done = kvtool.run("replay", "--model", model, "--from", "CPU", "--device", "cpu")
    assert done.returncode == 0
    assert "batch3_input0.kvc" in done.stderr


def test_batch_of_one_matches_the_recorded_tokens(exported, kvtool, token_prompts):
    model = exported("llama").path
    save_and_replay(kvtool, model, token_prompts)
    report = kvtool.json("replay", "--model", model, "--from", "CPU", "--batch", 1,
                         "--device", "cpu")
    assert all(result["rows"] == 1 for result in report["results"])
    assert kvtool.figures(report)["inject.tokens.hard_flips"] == 0
    assert kvtool.figures(report)["inject.kv.value.relative_l2"] < 1e-5


def test_rows_that_end_early_keep_the_batch_replayable(exported, kvtool, token_prompts):
    model = exported("llama")
    generated = kvtool.json("generate", "--model", model.path, "--prompts", token_prompts,
                            "--batch-size", 3, "--max-new-tokens", 12, "--ignore-eos",
                            "--device", "cpu")
    assert len({tuple(r["generated"]["tokens"]) for r in generated["results"]}) == 3
    # Without --ignore-eos rows may end; whatever they do, the replay follows.
    kvtool.ok("save", "--model", model.path, "--prompts", token_prompts, "--batch-size", 3,
              "--device", "cpu", "--max-new-tokens", 40, "--out", "ref_cache")
    report = kvtool.json("replay", "--model", model.path, "--from", "CPU", "--device", "cpu")
    assert kvtool.bitwise_equal_inputs(report) == 3


def test_replay_and_save_records_this_devices_rows(exported, kvtool, token_prompts):
    model = exported("qwen2").path
    save_and_replay(kvtool, model, token_prompts)
    kvtool.ok("replay", "--model", model, "--from", "CPU", "--save", "--out", "own",
              "--device", "cpu", "--device-label", "OTHER")
    own = sorted(kvtool.directory.glob("own/OTHER/*/*.kvc"))
    assert [path.name for path in own] == [f"batch3_input{index}.kvc" for index in range(3)]
    report = kvtool.json("replay", "--model", model, "--from", own[0].parent, "--device", "cpu")
    assert kvtool.bitwise_equal_inputs(report) == 3
