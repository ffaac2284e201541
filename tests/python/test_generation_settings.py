"""Generation settings that change greedy decoding are named when a model is exported."""

import json

import pytest
from transformers import GenerationConfig

from kvtool import export, generation_settings
from kvtool.exported_file import METADATA_NAME, read_extra_files

CHANGING = {
    "repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "suppress_tokens": [5],
    "begin_suppress_tokens": [5], "forced_bos_token_id": 7, "forced_eos_token_id": 2,
    "bad_words_ids": [[5]], "min_new_tokens": 5, "min_length": 9, "num_beams": 4,
    "sequence_bias": [[[5], 2.0]], "stop_strings": ["end"], "guidance_scale": 2.0,
}  # fmt: skip


@pytest.mark.parametrize("name", list(CHANGING))
def test_setting_that_changes_greedy_decoding_is_found(name):
    found = generation_settings.not_applied(GenerationConfig(**{name: CHANGING[name]}))
    assert found == {name: CHANGING[name]}
    assert f"{name} = " in generation_settings.warning(found)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(do_sample=True, temperature=0.6, top_k=20, top_p=0.9, min_p=0.1, typical_p=0.9),
        dict(max_length=50, max_new_tokens=5, eos_token_id=[1, 2], pad_token_id=0),
        dict(repetition_penalty=1.0, min_length=0, num_beams=1),
    ],
)
def test_setting_that_changes_nothing_is_not(settings):
    assert generation_settings.not_applied(GenerationConfig(**settings)) == {}
    assert generation_settings.not_applied(None) == {}


def test_export_warns_and_records(tiny_directory, tmp_path, capsys):
    directory = tmp_path / "model"
    directory.mkdir()
    for path in tiny_directory("llama").iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    path = directory / "generation_config.json"
    settings = {"repetition_penalty": 1.5, "suppress_tokens": [5]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    arguments = ["--model", str(directory), "--dtype", "float32"]
    assert export.main([*arguments, "--output", str(tmp_path / "x.pt")]) == 0
    message = capsys.readouterr().err
    assert "warning" in message and "repetition_penalty = 1.5, suppress_tokens = [5]" in message
    metadata = json.loads(read_extra_files(tmp_path / "x.pt")[METADATA_NAME])
    assert metadata["generation_not_applied"] == settings
