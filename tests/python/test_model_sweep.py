"""The sweep over all types: what is told apart, the table, and a sample that must export."""

import json
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

import model_sweep  # noqa: E402
from sweep import table, trial  # noqa: E402
from sweep.trial import EXPORTS, REFUSED, UNTRIED, Result  # noqa: E402

from kvtool import tiny_configs, tiny_models  # noqa: E402

DOCUMENT = (REPOSITORY / "docs" / "models.md").read_text()

# No families of tiny_models: other attention, experts, norms, multipliers, positions each.
SAMPLE = ("afmoe", "biogpt", "cohere2", "ernie4_5", "gemma4_text", "glm4_moe", "granitemoe",
          "hunyuan_v1_dense", "mimo_v2_flash", "persimmon")  # fmt: skip


@pytest.mark.parametrize("model_type", SAMPLE)
def test_sample_exports(model_type, tmp_path):
    assert trial.attempt(model_type, tmp_path / "model", tmp_path / "m.pt") == (EXPORTS, "")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["model_type"] == model_type
    assert config["num_hidden_layers"] <= 4 and config["hidden_size"] == 64


def test_refusals_keep_the_exporters_message(tmp_path):
    outcome, message = trial.attempt("bart", tmp_path / "model", tmp_path / "m.pt")
    assert outcome == REFUSED and message.startswith("model type 'bart' is not supported: ")
    outcome, message = trial.attempt("bloom", tmp_path / "model", tmp_path / "m.pt")
    assert outcome == REFUSED and message.startswith("BloomForCausalLM does not take position_ids")


def test_what_the_tiny_model_fails_in_is_not_called_a_refusal(monkeypatch, tmp_path):
    folder, output = tmp_path / "model", tmp_path / "m.pt"
    monkeypatch.setitem(tiny_configs.CORRECTIONS, "arcee", {"hidden_size": "wide"})
    outcome, message = trial.attempt("arcee", folder, output)
    assert outcome == UNTRIED and message.startswith("no tiny config: ")
    monkeypatch.setitem(tiny_configs.CORRECTIONS, "arcee", {"hidden_act": "no such function"})
    outcome, message = trial.attempt("arcee", folder, output)
    assert outcome == UNTRIED and message.startswith("no tiny model: ")
    # Four heads of queries over three of keys: transformers itself cannot multiply them.
    monkeypatch.setitem(tiny_configs.CORRECTIONS, "arcee", {"num_key_value_heads": 3})
    outcome, message = trial.attempt("arcee", folder, output)
    assert outcome == UNTRIED and message.startswith("the tiny model does not run: ")


def test_limits_end_a_trial(monkeypatch, tmp_path):
    def hog(*_):
        return [bytearray(1 << 30) for _ in range(64)]

    monkeypatch.setattr(trial, "attempt", hog)
    found = trial.run("llama", tmp_path / "m", tmp_path, trial.Limits(60, 3 << 30))
    assert found == Result("llama", UNTRIED, "it took more memory than the limit")
    monkeypatch.setattr(trial, "attempt", lambda *_: __import__("time").sleep(60))
    found = trial.run("bart", tmp_path / "m", tmp_path, trial.Limits(1, 3 << 30))
    assert found == Result("bart", UNTRIED, "it took longer than 1 s")


@pytest.mark.parametrize("family", list(tiny_models.FAMILIES))
def test_families_keep_their_settings(family):
    config = tiny_models.config_of(family)
    assert tiny_configs.tiny_config(config.model_type).to_dict() == config.to_dict()


def test_each_kind_of_layer_stays():
    assert tiny_configs.tiny_config("qwen3_next").layer_types == [
        "linear_attention", "full_attention"]  # fmt: skip
    assert tiny_configs.tiny_config("glm4_moe").first_k_dense_replace == 1


@pytest.mark.parametrize(
    "message, words",
    [
        ("model type 'bart' is not supported: it is an encoder-decoder; kvtool needs a decoder",
         "it is an encoder-decoder"),
        ("model type 'x' is not supported: layer 7 is 'conv', whose state is no cache",
         "a layer is 'conv', whose state is no cache"),
        ("FalconForCausalLM has no attention interface in transformers (it computes it itself), so",
         "it has no attention interface in transformers"),
        ("/a/b/modeling_x.py:206 walks over tensor data in Python, which a trace would freeze (a",
         "it walks over tensor data in Python, which a trace would freeze"),
        ("attention layer 2 (BltSelfAttention): it is not causal", "it is not causal"),
    ],
)  # fmt: skip
def test_reasons_in_few_words(message, words):
    assert table.in_few_words(message) == words


def test_the_table_is_replaced_and_compared():
    results = [
        Result("llama", EXPORTS),
        Result("mamba", REFUSED, "no"),
        Result("t5", REFUSED, "no"),
        Result("x", UNTRIED, "no tiny model: E"),
    ]
    text = table.rendered(results)
    assert "of 4 types 1 export, 2 are refused" in " ".join(text.split())
    assert "| no | `mamba`, `t5` |" in text
    assert "| not tried, because | types |" in text and "| no tiny model | `x` |" in text
    document = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    changed = table.replaced(document, text)
    assert changed.startswith("before\n") and changed.endswith("\nafter\n") and "old" not in changed
    assert table.difference(changed, text) == ""
    assert "-old" in table.difference(document, text)


def test_the_page_lists_every_type_of_transformers_that_it_was_made_with():
    if table.versions() not in DOCUMENT:
        pytest.skip("the page was made with other versions")
    written = DOCUMENT.split(table.BEGIN)[1].split(table.END)[0]
    assert [name for name in trial.all_types() if f"`{name}`" not in written] == []
    exported = written.split("| refused")[0]
    assert [name for name in SAMPLE if f"`{name}`" not in exported] == []


def test_command_line(monkeypatch, tmp_path, capsys):
    found = {"llama": Result("llama", EXPORTS), "bart": Result("bart", REFUSED, "why")}
    ran = []
    monkeypatch.setattr(trial, "run", lambda name, *_: ran.append(name) or found[name])
    arguments = ["--types", "llama,bart", "--results", str(tmp_path / "r.json")]
    assert model_sweep.main(arguments) == 0
    assert capsys.readouterr().out == "llama: exports\nbart: refused: why\n"
    assert model_sweep.main([*arguments, "--resume"]) == 0 and ran == ["llama", "bart"]
    assert model_sweep.main(["--types", "vit"]) == 2
    assert model_sweep.main(["--types", "llama", "--check"]) == 2
