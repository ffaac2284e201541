"""What a config.json sets is read, or known to be harmless, or named."""

import json
from dataclasses import fields

import pytest
import torch
from published_configs import QUIET
from transformers import CONFIG_MAPPING, AutoConfig

from kvtool import config_keys, export, rope, tiny_configs, tiny_models
from kvtool.errors import UnsupportedModelError


def unread(raw, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return config_keys.unread(raw, AutoConfig.from_pretrained(tmp_path))


@pytest.mark.parametrize("name", list(QUIET))
def test_published_checkpoints_are_neither_refused_nor_warned_of(name, tmp_path):
    assert unread(QUIET[name], tmp_path) == config_keys.Unread()


@pytest.mark.parametrize("family", list(tiny_models.FAMILIES))
def test_what_transformers_itself_saves_is_read(family, tmp_path):
    tiny_models.config_of(family).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert unread(raw, tmp_path) == config_keys.Unread()


LLAMA = dict(model_type="llama", hidden_size=64, num_attention_heads=4, num_hidden_layers=2,
             max_position_embeddings=256)  # fmt: skip

# Features of other classes.
FEATURES = [
    ("sliding_window", 8),
    ("attn_logit_softcapping", 50.0),
    ("final_logit_softcapping", 30.0),
    ("logits_soft_cap", 30.0),
    ("moe_router_logit_softcapping", 30.0),
    ("logit_scale", 0.0625),
    ("logits_scaling", 16.0),
    ("embedding_multiplier", 12.0),
    ("residual_multiplier", 0.22),
    ("attention_multiplier", 0.0078),
    ("lm_head_multiplier", 0.5),
    ("scale_emb", 12),
    ("scale_depth", 1.4),
    ("query_pre_attn_scalar", 256),
    ("clip_qkv", 8.0),
    ("swiglu_limit", 7.0),
    ("use_bidirectional_attention", True),
    ("no_rope_layers", [1, 0]),
    ("layer_types", ["full_attention", "sliding_attention"]),
    ("rotary_dim", 8),
    ("rope_interleave", True),
    ("layer_rope_theta", [1e4, 1e6]),
    ("use_parallel_residual", True),
    ("position_embedding_type", "relative_key"),
    ("attn_temperature_tuning", True),
]
# The class reads another name, or has nothing of the kind.
OTHER_NAMES = [
    ("sliding_window_size", 8),
    ("layer_norm_epsilon", 1e-3),
    ("norm_eps", 1e-3),
    ("rotary_emb_base", 5e5),
    ("activation_function", "gelu"),
    ("num_kv_heads", 2),
]


@pytest.mark.parametrize("key, value", FEATURES + OTHER_NAMES)
def test_refused_by_name_and_value(key, value, tmp_path):
    found = unread({**LLAMA, key: value}, tmp_path)
    assert list(found.refused) == [key] and not found.uncertain
    assert found.refused[key].startswith(f"{key} = {value}")


NEUTRAL = [
    ("sliding_window", None),
    ("sliding_window", 256),  # no position is beyond it
    ("logit_scale", 1.0),
    ("embedding_multiplier", 1),
    ("query_pre_attn_scalar", 16),
    ("use_parallel_residual", False),
    ("no_rope_layers", [1, 1]),
    ("layer_types", ["full_attention", "full_attention"]),
    ("rotary_dim", 16),
    ("partial_rotary_factor", 1.0),
    ("position_embedding_type", "absolute"),
    ("layer_norm_epsilon", 1e-6),
    ("activation_function", "silu"),
]


@pytest.mark.parametrize("key, value", NEUTRAL)
def test_values_that_change_nothing_are_quiet(key, value, tmp_path):
    assert unread({**LLAMA, key: value}, tmp_path) == config_keys.Unread()


def test_a_file_with_both_names_is_warned_of(tmp_path):
    found = unread({**LLAMA, "rms_norm_eps": 1e-5, "norm_eps": 1e-3}, tmp_path)
    assert found.uncertain == {"norm_eps": "norm_eps = 0.001 (used is rms_norm_eps = 1e-05)"}
    assert not found.refused


def test_unknown_keys_are_warned_of(tmp_path):
    raw = {**LLAMA, "use_magic": True, "magic_scale": 0, "training_stage": 3}
    assert unread(raw, tmp_path).uncertain == {"use_magic": "use_magic = True"}


def test_names_of_one_thing_that_differ_are_refused(tmp_path):
    linear = dict(rope_type="linear", factor=2.0)
    default = dict(rope_type="default", rope_theta=5e5)
    found = unread({**LLAMA, "rope_scaling": linear, "rope_parameters": default}, tmp_path)
    assert "rope_parameters" in found.refused
    same = unread({**LLAMA, "rope_scaling": linear, "rope_theta": 5e5,
                   "rope_parameters": {**linear, "rope_theta": 5e5}}, tmp_path)  # fmt: skip
    assert same == config_keys.Unread()
    found = unread({**LLAMA, "rope_theta": 1e4, "rope_parameters": default}, tmp_path)
    assert list(found.refused) == ["rope_theta"]
    found = unread({**LLAMA, "rope_theta": 5e5, "rope_parameters": default}, tmp_path)
    assert found == config_keys.Unread()
    found = unread({"model_type": "gpt_neox", "rotary_emb_base": 1e4, "rope_parameters": default},
                   tmp_path)  # fmt: skip
    assert list(found.refused) == ["rotary_emb_base"]
    found = unread({"model_type": "gpt2", "n_embd": 64, "hidden_size": 32}, tmp_path)
    assert list(found.refused) == ["hidden_size"]


def test_classes_without_rotary_positions(tmp_path):
    for key, value in (("rope_theta", 1e4), ("rope_scaling", {"type": "linear", "factor": 2.0})):
        assert list(unread({"model_type": "gpt2", key: value}, tmp_path).refused) == [key]


def test_types_that_complain_of_layer_types_and_ignore_them(tmp_path):
    kinds = ["full_attention", "sliding_attention"]
    raw = {**LLAMA, "model_type": "ministral3", "head_dim": 16, "layer_types": kinds}
    assert list(unread(raw, tmp_path).refused) == ["layer_types"]


def test_settings_of_single_layers(tmp_path):
    tiny_configs.tiny_config("gemma4_text").save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert list(unread({**raw, "rotary_dim": 8}, tmp_path).refused) == ["rotary_dim"]


def test_part_of_a_head_that_the_class_would_rotate_whole(tmp_path):
    """As MiniMax-M2 is published: transformers' class knows the part by another name."""
    raw = dict(model_type="minimax_m2", head_dim=128, rotary_dim=64, scoring_func="sigmoid",
               rope_theta=5e6, use_qk_norm=True, qk_norm_type="per_layer", attn_type_list=[1, 1],
               use_routing_bias=True, mtp_transformer_layers=1)  # fmt: skip
    assert unread(raw, tmp_path).refused == {"rotary_dim": "rotary_dim = 64"}
    parameters = dict(rope_type="default", rope_theta=5e6, partial_rotary_factor=0.5)
    assert unread({**raw, "rope_parameters": parameters}, tmp_path) == config_keys.Unread()


@pytest.mark.parametrize(
    "parameters, key",
    [
        (dict(rope_type="default", factor=2.0), "factor"),
        (dict(rope_type="linear", factor=2.0, attention_factor=1.2), "attention_factor"),
        (dict(rope_type="linear", factor=2.0, low_freq_factor=4.0), "low_freq_factor"),
        (dict(rope_type="yarn", factor=2.0, short_factor=[1.0] * 8,
              original_max_position_embeddings=128), "short_factor"),
        (dict(rope_type="default", partial_rotary_factor=0.5), "partial_rotary_factor"),
    ],
)  # fmt: skip
def test_rope_parameters_that_the_type_does_not_read(parameters, key, tmp_path, capsys):
    raw = {**LLAMA, "rope_parameters": {"rope_theta": 1e4, **parameters}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    status = export.main(["--model", str(tmp_path), "--dtype", "float32", "--no-tokenizer",
                          "--output", str(tmp_path / "m.pt")])  # fmt: skip
    assert status == 2
    assert f"'{parameters['rope_type']}', which does not read {key}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model_type, key, always, other",
    [
        ("deepseek_v2", "norm_topk_prob", False, True),
        ("biogpt", "layer_norm_eps", 1e-12, 1e-3),
        ("gpt_oss", "hidden_act", "silu", "gelu"),
    ],
)
def test_fields_that_a_class_declares_and_does_not_read(model_type, key, always, other, tmp_path):
    config = tiny_configs.tiny_config(model_type)
    config.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    assert unread({**raw, key: always}, tmp_path) == config_keys.Unread()
    assert unread({**raw, key: other}, tmp_path).refused == {key: f"{key} = {other}"}
    assert torch.equal(logits_of({**raw, key: always}), logits_of({**raw, key: other}))


def test_rope_parameters_that_a_class_of_its_own_reads(tmp_path):
    """As HunYuan and Ministral 3 are published; a llama reads neither."""
    hunyuan = dict(type="dynamic", alpha=1000.0, factor=1.0, beta_fast=32, beta_slow=1, mscale=1.0)
    ministral = dict(rope_type="yarn", factor=16.0, llama_4_scaling_beta=0.1,
                     original_max_position_embeddings=128)  # fmt: skip
    for own, parameters, key in (
        ("hunyuan_v1_dense", hunyuan, "alpha"),
        ("ministral3", ministral, "llama_4_scaling_beta"),
    ):
        raw = {**LLAMA, "head_dim": 16, "rope_parameters": {"rope_theta": 1e4, **parameters}}
        for model_type, unread_keys in ((own, []), ("llama", [key])):
            (tmp_path / "config.json").write_text(json.dumps({**raw, "model_type": model_type}))
            config = AutoConfig.from_pretrained(tmp_path)
            assert [name for _, name in rope.unread_keys(config)] == unread_keys


def test_unknown_rope_parameters_are_warned_of(tmp_path):
    parameters = dict(rope_type="default", rope_theta=1e4, magic=3, mrope_section=[2, 3, 3])
    found = unread({**LLAMA, "rope_parameters": parameters}, tmp_path)
    assert found.uncertain == {"magic": "magic = 3 in the rope parameters"}
    assert not found.refused


def logits_of(raw):
    settings = {key: value for key, value in raw.items() if key != "model_type"}
    model = tiny_models.model_of(CONFIG_MAPPING[raw["model_type"]](**settings))
    with torch.no_grad():
        return model(torch.arange(3, 15)[None], use_cache=False).logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi3", "gpt_neox", "mixtral", "olmo2"])
def test_what_is_refused_is_what_the_model_ignores(family, tmp_path):
    """Held to the models themselves: a key that leaves the logits as they are, to the bit, is
    refused (or declared by the class); one that changes them is not."""
    raw = json.loads(tiny_models.config_of(family).to_json_string(use_diff=False))
    raw = {key: value for key, value in raw.items() if not key.startswith(("_", "output_"))}
    config_class = CONFIG_MAPPING[raw["model_type"]]
    declared = {entry.name for entry in fields(config_class)} | config_class.attribute_map.keys()
    before, judged = logits_of(raw), 0
    for key, value in FEATURES:
        if key in declared:
            continue
        changed = {**raw, key: value}
        ignored = torch.equal(logits_of(changed), before)
        assert (key in unread(changed, tmp_path).refused) == ignored, key
        judged += 1
    assert judged > 15


def test_export_refuses_and_warns(tiny_directory, tmp_path, capsys):
    directory = tmp_path / "model"
    directory.mkdir()
    for path in tiny_directory("llama").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    arguments = ["--model", str(directory), "--dtype", "float32", "--no-tokenizer",
                 "--output", str(tmp_path / "m.pt")]  # fmt: skip

    (directory / "config.json").write_text(json.dumps({**config, "attn_logit_softcapping": 30.0}))
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"{directory}: config.json sets attn_logit_softcapping = 30.0: LlamaForCausalLM" in error
    assert not (tmp_path / "m.pt").exists()

    (directory / "config.json").write_text(json.dumps({**config, "use_magic": True}))
    assert export.main(arguments) == 0
    assert "warning: config.json sets keys" in (said := capsys.readouterr().err)
    assert "use_magic = True" in said
    assert torch.jit.load(str(tmp_path / "m.pt")) is not None


def test_a_key_that_only_the_masks_read_is_refused_by_what_it_does(tmp_path, capsys):
    config = tiny_models.config_of("llama")
    config.is_causal = False
    tiny_models.model_of(config).save_pretrained(tmp_path)
    arguments = ["--model", str(tmp_path), "--dtype", "float32", "--no-tokenizer"]
    assert export.main([*arguments, "--output", str(tmp_path / "m.pt")]) == 2
    assert "attention layer 0 (LlamaAttention): " in capsys.readouterr().err


def test_refusal_raises_the_error_of_models():
    config = tiny_models.config_of("llama")
    config.scale_emb = 12
    with pytest.raises(UnsupportedModelError, match="^x: config.json sets scale_emb = 12: Llama"):
        config_keys.require_read("x", {"scale_emb": 12}, config)
