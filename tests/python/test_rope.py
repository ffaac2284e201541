"""Models whose rotary frequencies depend on the length: refused, or exported for the
length at which they do not, and then equal to the original there."""

import json

import pytest
import torch
import transformers

from kvtool import export, rope, tiny_models, tracing
from kvtool.attention_op import AttentionCache
from kvtool.exported_file import METADATA_NAME, read_extra_files

ORIGINAL, LONGEST = 48, 256
FACTORS = dict(short_factor=[1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8], long_factor=[4.0] * 8)
COMMON = dict(
    vocab_size=384, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def longrope(**more):
    return dict(
        rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=ORIGINAL,
        **FACTORS, **more,
    )  # fmt: skip


CONFIGS = {
    # The attention factor comes from the ratio of both lengths, sqrt(1 + ln(256/48)/ln(48)).
    "phi3": (
        transformers.Phi3Config,
        dict(original_max_position_embeddings=ORIGINAL, rope_parameters=longrope()),
        ORIGINAL,
    ),
    "own_attention_factor": (
        transformers.LlamaConfig,
        dict(rope_parameters=longrope(factor=4.0, attention_factor=1.7)),
        ORIGINAL,
    ),
    "phimoe": (
        transformers.PhimoeConfig,
        dict(
            num_local_experts=4,
            num_experts_per_tok=2,
            rope_parameters=longrope(short_mscale=1.2, long_mscale=1.4),
        ),
        ORIGINAL,
    ),
    "dynamic": (
        transformers.LlamaConfig,
        dict(rope_parameters=dict(rope_type="dynamic", rope_theta=1e4, factor=4.0)),
        LONGEST,
    ),
}


def make(case, directory):
    config_class, settings, length = CONFIGS[case]
    config = config_class(**COMMON, max_position_embeddings=LONGEST, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tiny_models._randomize(model, 0)
    model.save_pretrained(directory)
    return length


def run_export(directory, output, *more):
    arguments = ["--model", str(directory), "--dtype", "float32", "--output", str(output)]
    return export.main([*arguments, *more])


@pytest.mark.parametrize("case", list(CONFIGS))
def test_refusal_recommends_no_edit_of_the_checkpoint(case, tmp_path, capsys):
    length = make(case, tmp_path / "m")
    assert run_export(tmp_path / "m", tmp_path / "x.pt") == 2
    message = capsys.readouterr().err
    assert f"--original-length exports it for its first {length} positions" in message
    assert "config.json" not in message and not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("case", list(CONFIGS))
def test_equals_the_original_up_to_the_original_length(case, tmp_path, capsys):
    length = make(case, tmp_path / "m")
    assert run_export(tmp_path / "m", tmp_path / "x.pt", "--original-length") == 0
    metadata = json.loads(read_extra_files(tmp_path / "x.pt")[METADATA_NAME])
    assert metadata["max_positions"] == length

    original = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    original.set_experts_implementation("eager")
    traced = torch.jit.load(str(tmp_path / "x.pt"))
    tokens = torch.randint(384, (1, length), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = original(tokens).logits
        with AttentionCache():
            got = traced(tokens, torch.arange(length)[None], torch.arange(length))
    torch.testing.assert_close(got, wanted, atol=2e-4, rtol=2e-4)


def test_the_option_means_nothing_for_other_models(tiny_directory, tmp_path, capsys):
    assert run_export(tiny_directory("llama"), tmp_path / "x.pt", "--original-length") == 2
    assert "leave the option out" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["inv_freq", "attention_scaling"])
def test_another_rope_than_the_originals_is_found(wrong, tmp_path, capsys, monkeypatch):
    """The trace is held against the model as it was loaded, not as it was changed."""
    make("phi3", tmp_path / "m")
    trace = tracing.trace

    def spoiled(model, *arguments):
        rotary = model.model.rotary_emb
        right = getattr(rotary, wrong)
        setattr(rotary, wrong, right * 1.1)
        try:
            return trace(model, *arguments)
        finally:
            setattr(rotary, wrong, right)

    monkeypatch.setattr(tracing, "trace", spoiled)
    assert run_export(tmp_path / "m", tmp_path / "x.pt", "--original-length") == 2
    assert "differ from the original model's" in capsys.readouterr().err


def test_a_longrope_model_that_ends_at_its_original_length_needs_no_option(tmp_path, capsys):
    settings = dict(original_max_position_embeddings=ORIGINAL, rope_parameters=longrope())
    config = transformers.Phi3Config(**COMMON, max_position_embeddings=ORIGINAL, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "m")
    assert run_export(tmp_path / "m", tmp_path / "x.pt") == 0


@pytest.mark.parametrize("key", ["short_factor", "factor", "attention_factor"])
def test_rope_parameters_that_the_type_does_not_read_are_refused(key, tmp_path, capsys):
    parameters = dict(rope_type="default", rope_theta=1e4, **{key: longrope(
        factor=4.0, attention_factor=1.7)[key]})  # fmt: skip
    config = transformers.LlamaConfig(**COMMON, rope_parameters=parameters)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "m")
    assert run_export(tmp_path / "m", tmp_path / "x.pt") == 2
    assert f"does not read {key}" in capsys.readouterr().err


def test_factors_of_another_type_are_unread_though_the_class_checks_them():
    half = {"rope_theta": 1e4, "short_factor": [1.1] * 8, "long_factor": [4.0] * 8}
    config = transformers.Phi3Config(
        hidden_size=64, num_attention_heads=4, pad_token_id=0,
        rope_parameters={"rope_type": "default", **half})
    assert rope.unread_keys(config) == [("default", "long_factor"), ("default", "short_factor")]
    config.rope_parameters = {"rope_type": "longrope", **half}
    assert rope.unread_keys(config) == []
