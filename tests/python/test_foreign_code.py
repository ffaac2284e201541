"""Python code that a model or tokenizer folder brings never runs, and nobody is asked."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import REPOSITORY

from kvtool import export
from kvtool.exported_file import read_extra_files

# Would run at import, and marks that it did.
MARK = "open({mark!r}, 'w').close()\n"


def change_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def copy_of(directory, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def with_model_code(directory, mark, model_type="of_its_own"):
    change_json(
        directory / "config.json",
        model_type=model_type,
        auto_map={"AutoConfig": "code_x.C", "AutoModelForCausalLM": "code_x.M"},
    )
    (directory / "code_x.py").write_text(MARK.format(mark=str(mark)))


def with_tokenizer_code(directory, mark, tokenizer_class="T"):
    change_json(
        directory / "tokenizer_config.json",
        tokenizer_class=tokenizer_class,
        auto_map={"AutoTokenizer": ["code_t.T", None]},
    )
    (directory / "code_t.py").write_text(MARK.format(mark=str(mark)))


def run_export(directory, tmp_path, *more, stdin=None):
    command = [
        sys.executable, REPOSITORY / "tools" / "export_model.py", "--model", directory,
        "--dtype", "float32", "--output", tmp_path / "x.pt", *more,
    ]  # fmt: skip
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_own_code_is_refused_even_for_a_yes(part, tiny_directory, tmp_path):
    directory, mark = copy_of(tiny_directory("llama"), tmp_path), tmp_path / "ran"
    {"model": with_model_code, "tokenizer": with_tokenizer_code}[part](directory, mark)
    done = run_export(directory, tmp_path, stdin="y\n" * 10)
    assert done.returncode == 2 and not mark.exists() and not (tmp_path / "x.pt").exists()
    assert f"the {part} needs Python code of its own" in done.stderr
    assert "[y/N]" not in done.stderr + done.stdout


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_transformers_own_class_is_used_where_there_is_one(part, tiny_directory, tmp_path, capsys):
    directory, mark = copy_of(tiny_directory("llama"), tmp_path), tmp_path / "ran"
    if part == "model":
        with_model_code(directory, mark, "llama")
    else:
        with_tokenizer_code(directory, mark, "PreTrainedTokenizerFast")
    arguments = ["--model", str(directory), "--dtype", "float32"]
    assert export.main([*arguments, "--output", str(tmp_path / "x.pt")]) == 0
    assert not mark.exists()
    settings = json.loads(read_extra_files(tmp_path / "x.pt")["tokenizer_files.json"])
    assert settings["encoder"] == "tokenizers"


def test_a_generate_function_of_the_folder_never_runs(tiny_directory, tmp_path, capsys):
    directory, mark = copy_of(tiny_directory("llama"), tmp_path), tmp_path / "ran"
    (directory / "custom_generate").mkdir()
    (directory / "custom_generate" / "generate.py").write_text(MARK.format(mark=str(mark)))
    arguments = ["--model", str(directory), "--dtype", "float32"]
    assert export.main([*arguments, "--output", str(tmp_path / "x.pt")]) == 0
    assert not mark.exists()


def test_no_tokenizer_is_the_way_out(tiny_directory, tmp_path, capsys):
    directory, mark = copy_of(tiny_directory("llama"), tmp_path), tmp_path / "ran"
    with_tokenizer_code(directory, mark)
    arguments = ["--model", str(directory), "--dtype", "float32", "--no-tokenizer"]
    assert export.main([*arguments, "--output", str(tmp_path / "x.pt")]) == 0
    assert not mark.exists()
    settings = json.loads(read_extra_files(tmp_path / "x.pt")["tokenizer_files.json"])
    assert settings["encoder"] is None


def test_prompt_encoding_runs_no_code_of_the_file(tiny_directory, tmp_path):
    """A model file may have been written by anybody: its tokenizer files too."""
    directory, mark = copy_of(tiny_directory("llama"), tmp_path), tmp_path / "ran"
    with_tokenizer_code(directory, mark)
    files = {p.name: p.read_bytes() for p in directory.iterdir() if p.suffix in (".json", ".py")}
    settings = {"files": sorted(files), "encoder": "transformers", "chat_template": None}
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/extra/kvtool.json", json.dumps({"vocab_size": 384}))
        archive.writestr("x/extra/tokenizer_files.json", json.dumps(settings))
        for name, content in files.items():
            archive.writestr(f"x/extra/tokenizer/{name}", content)
    done = subprocess.run(
        [sys.executable, REPOSITORY / "python/kvtool/encode_prompts.py", "--model",
         tmp_path / "x.pt"],
        input=json.dumps({"prompts": [{"text": "hi"}]}), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and not mark.exists()
    assert "Python code of its own" in json.loads(done.stdout)["error"]


def damage(directory):
    path = directory / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:5000])


def only_pieces(directory):
    for path in directory.glob("tokenizer*"):
        path.unlink()
    (directory / "tokenizer.model").write_bytes(b"\n\x10not a model of pieces")


def only_settings(directory):
    (directory / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    "change, words",
    [
        (damage, ["tokenizer.json is damaged", "fetch the file again"]),
        (only_pieces, ["tokenizer.model cannot be read", "install", "tokenizer.json"]),
        (only_settings, ["there is no tokenizer.json"]),
    ],
    ids=["damaged", "only_pieces", "only_settings"],
)
def test_a_tokenizer_that_does_not_load_stops_no_export(
    change, words, tiny_directory, tmp_path, capsys
):
    directory = copy_of(tiny_directory("llama"), tmp_path)
    change(directory)
    arguments = ["--model", str(directory), "--dtype", "float32"]
    assert export.main([*arguments, "--output", str(tmp_path / "x.pt")]) == 0
    message = capsys.readouterr().err
    for word in [*words, "warning", "prompts have to be given as token ids"]:
        assert word in message
    module = torch.jit.load(str(tmp_path / "x.pt"))
    logits = module(torch.tensor([[5, 6]]), torch.tensor([[0, 1]]), torch.tensor([1]))
    assert logits.shape == (1, 1, 384)
