"""What the config of a model is identified by: every field that an output depends on."""

import copy
import enum
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from transformers import LlamaConfig

from kvtool import canonical_config as canonical
from kvtool import export, tiny_models
from kvtool.errors import UnsupportedModelError
from kvtool.exported_file import METADATA_NAME, read_extra_files

REPOSITORY = Path(__file__).resolve().parents[2]
# Fields of which the numbers below change logits, so that the search is known to find some.
KNOWN = {
    "gpt2": {"layer_norm_epsilon", "scale_attn_by_inverse_layer_idx"},
    "llama": {"rms_norm_eps", "rope_parameters.rope_theta", "hidden_act"},
    "mistral": {"rms_norm_eps", "rope_parameters.rope_theta", "sliding_window"},
    "qwen2": {"sliding_window", "layer_types"},
    "qwen3": {"rms_norm_eps", "rope_parameters.rope_theta"},
    "qwen3_moe": {"num_experts_per_tok", "norm_topk_prob"},
    "gemma2": {"attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"},
    "gemma3": {"rope_parameters.full_attention.rope_theta", "sliding_window",
               "rope_parameters.sliding_attention.rope_theta", "query_pre_attn_scalar"},
    "phi3": {"sliding_window", "rope_parameters.rope_theta"},
    "gpt_neox": {"layer_norm_eps", "use_parallel_residual", "rope_parameters.rope_theta"},
    "opt": {"activation_function"},
    "deepseek_v3": {"num_experts_per_tok", "routed_scaling_factor", "topk_group",
                    "rope_interleave"},
    "mixtral": {"num_experts_per_tok", "sliding_window"},
    "gpt_oss": {"num_experts_per_tok", "sliding_window", "rms_norm_eps"},
    "olmo2": {"rms_norm_eps", "rope_parameters.rope_theta"},
    "stablelm": {"layer_norm_eps", "rope_parameters.partial_rotary_factor"},
    "smollm3": {"rms_norm_eps", "rope_parameters.rope_theta"},
    "gpt_bigcode": {"layer_norm_epsilon", "scale_attn_weights"},
}  # fmt: skip


def logits_of(model) -> torch.Tensor:
    # Longer than the windows of the tiny models, each token another one.
    with torch.no_grad():
        return model(torch.tensor([range(5, 29)]), use_cache=False).logits


def other_values(name: str, value) -> list:
    if name == "return_dict":  # a tuple instead of an object with the same logits
        return []
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        # An epsilon has to grow until it is felt beside a variance of about 1.
        return [value * 3 + 0.01]
    if name in ("hidden_act", "hidden_activation", "activation_function"):
        return ["relu" if value != "relu" else "silu"]
    return [value[::-1]] if name == "layer_types" else []


def with_other_values(fields: dict):
    """(dotted name, fields) for every scalar, of nested dicts too, under another value"""
    for name, value in fields.items():
        if isinstance(value, dict):
            for inner, changed in with_other_values(value):
                yield f"{name}.{inner}", {**fields, name: changed}
        for other in other_values(name, value):
            yield name, {**fields, name: other}


def rebuilt(config_class, fields: dict, state: dict):
    """(config, model) of the fields with these weights; None where they do not fit."""
    try:
        config = config_class.from_dict(copy.deepcopy(fields))
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
        model.load_state_dict(state)
        return config, model.eval()
    except Exception:  # a value that the class refuses, or other shapes
        return None


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_field_that_changes_logits_changes_the_config(family):
    original = tiny_models.build_model(family)
    state = original.state_dict()
    config_class = type(original.config)
    fields = original.config.to_dict()
    config, model = rebuilt(config_class, fields, state)
    expected = logits_of(model)
    identity = canonical.canonical_config(config)
    assert identity == canonical.canonical_config(original.config)
    felt = set()
    for name, changed in with_other_values(fields):
        built = rebuilt(config_class, changed, state)
        if built is None:
            continue
        try:
            same = torch.equal(logits_of(built[1]), expected)
        except (RuntimeError, IndexError, ValueError):
            same = False
        if not same:
            felt.add(name)
            assert canonical.canonical_config(built[0]) != identity, name
    assert KNOWN[family] <= felt


@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_harmless_fields_change_no_logits(family):
    original = tiny_models.build_model(family)
    state = original.state_dict()
    fields = original.config.to_dict()
    _, model = rebuilt(type(original.config), fields, state)
    expected = logits_of(model)
    for name in sorted(set(fields) & set(canonical.HARMLESS)):
        for value in other_values(name, fields[name]):
            built = rebuilt(type(original.config), {**fields, name: value}, state)
            if built is not None:
                assert torch.equal(logits_of(built[1]), expected), name


class Fields:
    """A config of these fields."""

    def __init__(self, **fields):
        self._fields = fields

    def to_dict(self):
        return self._fields


@pytest.mark.parametrize("name", sorted(canonical.HARMLESS))
def test_harmless_field_is_left_out_wherever_it_stands(name):
    inner = {"model_type": "inner", "a": 1}
    plain = canonical.canonical_config(Fields(text_config=inner, b=2))
    assert plain == {"b": 2, "text_config": {"a": 1, "model_type": "inner"}}
    named = Fields(text_config={**inner, name: 3}, b=2, **{name: "x"})
    assert canonical.canonical_config(named) == plain
    assert canonical.HARMLESS[name]


def test_an_unknown_field_counts():
    assert canonical.canonical_config(LlamaConfig(strange_setting=3))["strange_setting"] == 3


def test_defaults_are_those_of_the_class():
    given = LlamaConfig(rms_norm_eps=1e-6, head_dim=128, num_key_value_heads=32)
    assert canonical.canonical_config(given) == canonical.canonical_config(LlamaConfig())
    assert canonical.canonical_config(LlamaConfig())["rms_norm_eps"] == 1e-6


def test_equal_values_have_one_form():
    class Kind(enum.Enum):
        LINEAR = "linear"

    found = canonical.canonical_config(
        Fields(theta=10000.0, none=None, yes=True, low=0.1, far=float("inf"), near=float("-inf"),
               nothing=float("nan"), kind=Kind.LINEAR, pair=(1.0, 2.5), bag={"b", "a"},
               kept_in=torch.bfloat16, by_layer={1: 2.0}, other=object())
    )  # fmt: skip
    assert found == {
        "theta": 10000, "none": None, "yes": True, "low": 0.1, "far": "Infinity",
        "near": "-Infinity", "nothing": "NaN", "kind": "linear", "pair": [1, 2.5],
        "bag": ["a", "b"], "kept_in": "bfloat16", "by_layer": {"1": 2}, "other": "builtins.object",
    }  # fmt: skip
    assert list(found) == sorted(found)
    assert isinstance(found["theta"], int) and found["yes"] is True
    json.loads(json.dumps(found, allow_nan=False))


def test_a_long_value_is_told_by_its_digest():
    # 64 numbers of 18 characters fit, a table does not.
    factors = [1.0 + i / 7 for i in range(64)]
    table = list(range(3000))
    found = canonical.canonical_config(Fields(rope={"long_factor": factors}, table=table))
    assert found["rope"]["long_factor"][1] == factors[1]
    assert found["table"].startswith("SHA-256 ") and len(found["table"]) == 72
    other = canonical.canonical_config(Fields(rope={"long_factor": factors}, table=table[::-1]))
    assert other["table"] != found["table"]


def test_a_config_that_no_recording_holds_is_refused():
    many = {f"field_{i}": "x" * 1000 for i in range(400)}
    deep = {"a": 1}
    for _ in range(10):
        deep = {"a": deep}
    for fields in (many, deep):
        with pytest.raises(UnsupportedModelError, match="fit into a recording"):
            canonical.canonical_config(Fields(**fields))


def facts(path: Path) -> dict:
    return json.loads(read_extra_files(path)[METADATA_NAME])


@pytest.fixture
def export_changed(tiny_directory, tmp_path):
    """(family, change of config.json's fields) -> metadata of the export"""
    made = []

    def get(family: str, change=lambda fields: None) -> dict:
        folder = tmp_path / f"model{len(made)}"
        shutil.copytree(tiny_directory(family), folder)
        path = folder / "config.json"
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps(fields))
        output = tmp_path / f"{folder.name}.pt"
        arguments = ["--model", str(folder), "--dtype", "float32", "--output", str(output)]
        assert export.main(arguments) == 0
        made.append(output)
        return facts(output)

    return get


def test_file_says_config_and_graph(exported, export_changed):
    expected = exported("llama").metadata
    config = LlamaConfig(**tiny_models.FAMILIES["llama"].settings)
    assert expected["config"] == canonical.canonical_config(config)
    assert expected["config_sha256"] == canonical.config_digest(expected["config"])

    def change(fields):
        fields |= {"attention_dropout": 0.5, "use_cache": False, "transformers_version": "4.0.0",
                   "architectures": ["LlamaForCausalLM"], "torch_dtype": "float16"}  # fmt: skip

    # Another folder, and harmless fields.
    again = export_changed("llama", change)
    for name in ("config", "config_sha256", "graph_sha256", "weights_sha256"):
        assert again[name] == expected[name], name


@pytest.mark.parametrize(
    "family,name,value",
    [("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 1e6}),
     ("llama", "rms_norm_eps", 1e-3), ("mistral", "sliding_window", 4),
     ("mixtral", "num_experts_per_tok", 1), ("gemma2", "final_logit_softcapping", 30.0)],
)  # fmt: skip
def test_another_config_of_the_same_weights_is_told(exported, export_changed, family, name, value):
    expected = exported(family).metadata
    other = export_changed(family, lambda fields: fields.update({name: value}))
    assert other["weights_sha256"] == expected["weights_sha256"]
    assert {**expected["config"], name: value} == other["config"]
    assert other["config_sha256"] != expected["config_sha256"]
    # Frequencies are buffers, epsilons and windows constants of the graph.
    assert other["graph_sha256"] != expected["graph_sha256"]


def test_page_lists_the_harmless_fields():
    page = (REPOSITORY / "docs" / "models.md").read_text()
    section = page.split("| field | because |\n")[1].split("\n\n")[0]
    listed = [
        [name.strip(" `") for name in line.split("|")[1].split(",")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    assert sorted(sum(listed, [])) == sorted(canonical.HARMLESS)
