"""Which names an exported model gets, and what it never replaces."""

import os
import shutil
from pathlib import Path

import pytest

from kvtool import export, model_source, output_file
from kvtool.errors import EnvironmentFailure, UsageError


@pytest.mark.parametrize(
    "model_id, slug",
    [
        ("RedHatAI/Meta-Llama-3.1-8B-FP8", "redhatai_meta_llama_3_1_8b_fp8"),
        ("--A__b--", "a_b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "huggingfacetb_smollm2_135m_instruct"),
        ("org/name.pt", "org_name_pt"),
        ("模型-7B", "7b"),
        # Letters that become a-z in lower case are no letters of ASCII all the same.
        ("\u212aelvin-\u0130", "elvin"),
        ("模型", ""),
        ("///", ""),
        ("..", ""),
    ],
)
def test_slug(model_id, slug):
    assert output_file.model_slug(model_id) == slug


@pytest.mark.parametrize(
    "model_id, part",
    [
        ("模型", "'模型'"),
        ("測試", "'測試'"),
        ("///", "'///'"),
        ("..", "'..'"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        ("caf\udce9", r"'caf\udce9'"),
        ("x" * 201, "201 characters"),
    ],
)
def test_id_that_cannot_name_files_is_refused_before_the_weights(
    model_id, part, tiny_directory, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_source, "load", lambda *_: pytest.fail("the weights were read"))
    arguments = ["--model", str(tiny_directory("llama")), "--dtype", "float32"]
    for more in ([], ["--output", "x.pt"]):  # the id names folders of recordings, too
        assert export.main([*arguments, "--model-id", model_id, *more]) == 2
        message = capsys.readouterr().err
        assert part in message and "--model-id" in message
    assert os.listdir() == []


def test_directory_without_letters_asks_for_an_id(tiny_directory, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_directory("llama"), "模型")
    assert export.main(["--model", "./模型", "--dtype", "float32"]) == 2
    assert "'模型'" in capsys.readouterr().err and os.listdir() == ["模型"]
    arguments = ["--model", "./模型", "--model-id", "org/moxing", "--dtype", "float32"]
    assert export.main(arguments) == 0
    assert os.listdir("models") == ["org_moxing.pt"]


@pytest.mark.parametrize("given", ["x" * 5000, "org/" + "y" * 300])
def test_very_long_model_is_no_traceback(given, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export.main(["--model", given, "--dtype", "float32"]) == 2
    assert "--model-id" in capsys.readouterr().err
    assert export.main(["--gguf", given, "--dtype", "float32"]) == 2
    assert "no such GGUF file" in capsys.readouterr().err


def test_file_of_another_model_is_not_replaced(exported, tiny_directory, tmp_path, capsys):
    """Org-A.1 and org_a-1 have one slug."""
    output = tmp_path / "models" / "kvtool_tiny_llama.pt"
    output.parent.mkdir()
    shutil.copy(exported("llama").path, output)  # id kvtool/Tiny-llama
    before = output.read_bytes()
    arguments = ["--model", str(tiny_directory("llama", 1)), "--dtype", "float32"]
    arguments += ["--output", str(output), "--model-id", "KVtool-tiny/llama"]
    assert export.main(arguments) == 2
    message = capsys.readouterr().err
    assert "'kvtool/Tiny-llama'" in message and "'KVtool-tiny/llama'" in message
    assert "--force" in message and output.read_bytes() == before
    assert export.main([*arguments, "--force"]) == 0
    assert output.read_bytes() != before


def test_what_may_be_replaced(exported, tmp_path):
    same = tmp_path / "same.pt"
    shutil.copy(exported("llama").path, same)
    notes = tmp_path / "notes.txt"
    notes.write_text("no model")
    output_file.require_replaceable(same, "kvtool/Tiny-llama", force=False)
    output_file.require_replaceable(tmp_path / "new.pt", "a", force=False)
    output_file.require_replaceable(notes, "a", force=True)
    for path, part in ((notes, "no exported model"), (same, "another model")):
        with pytest.raises(UsageError, match=part):
            output_file.require_replaceable(path, "a", force=False)
    for path, part in (
        (Path("/dev/null"), "no regular file"),
        (tmp_path, "is a directory"),
        (tmp_path / ("x" * 300), "name too long"),
    ):
        with pytest.raises(UsageError, match=part):
            output_file.require_replaceable(path, "a", force=True)


def test_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match="cannot create"):
        output_file.prepare_folder(tmp_path / "file" / "x.pt")


def test_a_link_stays_and_its_target_is_written(tiny_directory, tmp_path):
    target = tmp_path / ("n" * 252 + ".pt")[-255:]
    link = tmp_path / "link.pt"
    link.symlink_to(target)
    arguments = ["--model", str(tiny_directory("llama", 1)), "--dtype", "float32"]
    assert export.main([*arguments, "--output", str(link)]) == 0
    assert link.is_symlink() and target.stat().st_size > 0
    assert {path.name for path in tmp_path.iterdir()} == {link.name, target.name}
