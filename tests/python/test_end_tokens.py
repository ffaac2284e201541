"""Which tokens end a generation, beside the rule of transformers' generate()."""

import argparse
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from kvtool import end_tokens, export
from kvtool.errors import UsageError
from kvtool.exported_file import read_extra_files


def model(generation, config=None):
    return SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=generation),
        config=SimpleNamespace(eos_token_id=config),
    )


def tokenizer(eos):
    return SimpleNamespace(eos_token_id=eos, convert_ids_to_tokens=lambda token_id: f"<{token_id}>")


@pytest.mark.parametrize(
    "generation, config, own, all_ids, of_transformers",
    [
        ([5, 7], 2, None, [5, 7], [5, 7]),
        ([5, 7], 2, 9, [5, 7, 9], [5, 7]),
        (None, 2, 9, [2, 9], []),
        (None, [2, 3], None, [2, 3], []),
        (2, 3, 2, [2], [2]),
        (None, None, None, [], []),
        ([7, 7, 500], None, -1, [7], [7]),
    ],
)
def test_rules(generation, config, own, all_ids, of_transformers):
    made, words = model(generation, config), tokenizer(own)
    assert end_tokens.chosen("all", made, words, 100) == all_ids
    assert end_tokens.chosen("transformers", made, words, 100) == of_transformers
    assert end_tokens.chosen([8, 1, 8], made, words, 100) == [8, 1]
    with pytest.raises(UsageError, match="100 is outside the vocabulary"):
        end_tokens.chosen([1, 100], made, words, 100)


def test_difference_to_transformers_is_said():
    told = end_tokens.difference("all", model([5, 7]), tokenizer(9))
    assert "at 9 (<9>), where transformers' generate() goes on" in told
    assert "--eos transformers" in told
    told = end_tokens.difference([5], model([5, 7]), None)
    assert "not at 7, where transformers' generate() ends" in told
    assert end_tokens.difference("all", model([5, 7]), tokenizer(7)) is None
    assert end_tokens.difference("transformers", model([5]), tokenizer(7)) is None


def test_option():
    assert end_tokens.parse("all") == "all" and end_tokens.parse("2,32000") == [2, 32000]
    for bad in ("", "2,", "eos", "-1", "2 3", "\u0663"):
        with pytest.raises(argparse.ArgumentTypeError, match="token ids such as"):
            end_tokens.parse(bad)


def test_export_ends_where_transformers_ends(tiny_directory, tmp_path, capsys):
    directory = tmp_path / "model"
    shutil.copytree(tiny_directory("llama"), directory)
    settings = json.loads((directory / "generation_config.json").read_text())
    original = AutoModelForCausalLM.from_pretrained(directory)
    prompt = torch.tensor([[1, 20, 21]])
    free = original.generate(prompt, do_sample=False, max_new_tokens=8, eos_token_id=None)[0, 3:].tolist()
    settings["eos_token_id"] = [free[4], 383]
    (directory / "generation_config.json").write_text(json.dumps(settings))
    again = AutoModelForCausalLM.from_pretrained(directory)
    ended = again.generate(prompt, do_sample=False, max_new_tokens=8)[0, 3:].tolist()
    ids = {}
    for rule in ("all", "transformers", "40,2"):
        output = tmp_path / f"{rule}.pt"
        arguments = ["--model", str(directory), "--dtype", "float32", "--output", str(output)]
        assert export.main([*arguments, "--eos", rule]) == 0
        ids[rule] = json.loads(read_extra_files(output)["kvtool.json"])["eos_token_ids"]
        assert ("transformers' generate()" in capsys.readouterr().err) == (rule != "transformers")
    assert ids == {
        "all": [free[4], 383, 2], "transformers": [free[4], 383], "40,2": [40, 2],
    }  # fmt: skip
    # Where the file's ids end the tokens of an endless generation is where transformers ended.
    stop = next(i for i, token in enumerate(free) if token in ids["transformers"])
    assert free[: stop + 1] == ended


def test_id_outside_the_vocabulary_is_refused_before_the_trace(tiny_directory, tmp_path, capsys):
    arguments = ["--model", str(tiny_directory("llama")), "--dtype", "float32"]
    assert export.main([*arguments, "--output", str(tmp_path / "x.pt"), "--eos", "384"]) == 2
    captured = capsys.readouterr().err
    assert "384 is outside the vocabulary (0 to 383)" in captured and "traced" not in captured


def test_clock_of_a_template_is_a_warning(tiny_directory, tmp_path, capsys):
    directory = tmp_path / "model"
    shutil.copytree(tiny_directory("llama"), directory)
    template = "{{ strftime_now('%Y') }} {{ messages[0].content }}"
    (directory / "chat_template.jinja").write_text(template)
    arguments = ["--model", str(directory), "--dtype", "float32"]
    assert export.main([*arguments, "--output", str(tmp_path / "x.pt")]) == 0
    assert "the chat template reads the clock" in capsys.readouterr().err
