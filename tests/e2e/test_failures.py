"""What goes wrong for users: a clear message, the right exit status, nothing lost."""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import time

import pytest
from kvtool.exported_file import read_extra_files

USAGE, INCOMPATIBLE, CORRUPT, ENVIRONMENT = 2, 3, 4, 5


def words(done):
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def recorded(exported, kvtool, token_prompts):
    """A directory with recordings of the tiny Llama."""
    kvtool.ok("save", "--model", exported("llama").path, "--prompts", token_prompts,
              "--batch-size", 1, "--device", "cpu", "--max-new-tokens", 8, "--ignore-eos",
              "--out", "ref_cache")
    return next(kvtool.directory.glob("ref_cache/CPU/*"))


def replay(kvtool, model, *options, **keywords):
    return kvtool.run("replay", "--model", model, "--from", "CPU", "--device", "cpu", *options,
                      **keywords)


def test_other_weights_are_refused(recorded, exported, kvtool):
    path = exported("llama", seed=1).path
    done = kvtool.run("replay", "--model", path, "--from", recorded, "--device", "cpu")
    assert done.returncode == INCOMPATIBLE
    ours = exported("llama").metadata["weights_sha256"]
    theirs = json.loads(read_extra_files(path)["kvtool.json"])["weights_sha256"]
    assert ours[:12] in words(done) and theirs[:12] in words(done)


# The tiny Mistral has the very weights of the tiny Llama and reads them otherwise.
def test_other_architecture_with_the_same_weights_is_refused(recorded, exported, kvtool):
    other = exported("mistral")
    assert other.metadata["weights_sha256"] == exported("llama").metadata["weights_sha256"]
    done = kvtool.run("replay", "--model", other.path, "--from", recorded, "--device", "cpu")
    assert done.returncode == INCOMPATIBLE
    assert "LlamaForCausalLM" in words(done) and "MistralForCausalLM" in words(done)


def test_other_vocabulary_is_refused(recorded, exported, kvtool):
    done = kvtool.run("replay", "--model", exported("gpt2").path, "--from", recorded,
                      "--device", "cpu")
    assert done.returncode == INCOMPATIBLE


def test_existing_recordings_are_kept_without_force(recorded, exported, kvtool, token_prompts):
    before = {path.name: path.read_bytes() for path in recorded.iterdir()}
    done = kvtool.run("save", "--model", exported("llama").path, "--prompts", token_prompts,
                      "--batch-size", 1, "--device", "cpu", "--max-new-tokens", 4,
                      "--out", "ref_cache")
    assert done.returncode == USAGE
    assert "--force" in words(done)
    assert before == {path.name: path.read_bytes() for path in recorded.iterdir()}


def test_missing_recording_names_what_is_there(recorded, exported, kvtool):
    (recorded / "batch1_input1.kvc").unlink()
    done = replay(kvtool, exported("llama").path, "--request-number", 3)
    assert done.returncode in (USAGE, CORRUPT)
    assert "KV cache not found for input 1" in words(done)
    assert "batch1_input1.kvc" in words(done) and "batch1_input0.kvc" in words(done)


def test_unknown_label_lists_the_known(recorded, exported, kvtool):
    done = kvtool.run("replay", "--model", exported("llama").path, "--from", "NVIDIA_H200",
                      "--device", "cpu")
    assert done.returncode == USAGE
    assert "NVIDIA_H200" in words(done) and "CPU" in words(done)


def without_privileges():
    """Runs in the child before exec: even root obeys file permissions after it."""
    libc = ctypes.CDLL(None)
    drop_from_bounding_set, dac_override, dac_read_search = 24, 1, 2
    for capability in (dac_override, dac_read_search):
        libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)


def test_unreadable_directory(recorded, exported, kvtool):
    recorded.chmod(0)
    try:
        done = replay(kvtool, exported("llama").path, preexec_fn=without_privileges)
    finally:
        recorded.chmod(0o755)
    assert done.returncode == CORRUPT, words(done)
    assert "ermission denied" in words(done) and str(recorded.name) in words(done)


def test_unreadable_recording(recorded, exported, kvtool):
    path = recorded / "batch1_input1.kvc"
    path.chmod(0)
    done = replay(kvtool, exported("llama").path, preexec_fn=without_privileges)
    assert done.returncode == CORRUPT, words(done)
    assert "ermission denied" in words(done) and path.name in words(done)


def test_read_only_output_directory(exported, kvtool, token_prompts):
    (kvtool.directory / "out").mkdir(mode=0o500)
    done = kvtool.run("save", "--model", exported("llama").path, "--prompts", token_prompts,
                      "--device", "cpu", "--max-new-tokens", 4, "--out", "out",
                      preexec_fn=without_privileges)
    assert done.returncode == ENVIRONMENT, words(done)
    assert "ermission denied" in words(done)


def test_file_where_a_directory_belongs(exported, kvtool, token_prompts):
    (kvtool.directory / "out").write_text("I am a file")
    done = kvtool.run("save", "--model", exported("llama").path, "--prompts", token_prompts,
                      "--device", "cpu", "--max-new-tokens", 4, "--out", "out")
    assert done.returncode == ENVIRONMENT
    assert "out" in words(done)


def test_file_size_limit_stops_with_a_message_and_keeps_earlier_recordings(
        recorded, exported, kvtool, token_prompts):
    before = {path.name: path.read_bytes() for path in recorded.iterdir()}
    limit = 20_000
    done = kvtool.run(
        "save", "--model", exported("llama").path, "--prompts", token_prompts, "--batch-size", 1,
        "--device", "cpu", "--max-new-tokens", 60, "--ignore-eos", "--out", "ref_cache",
        "--force",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == ENVIRONMENT, words(done)
    assert "batch1_input0.kvc" in words(done)
    for name, content in before.items():
        assert (recorded / name).read_bytes() == content


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_disk_stops_with_a_message(exported, kvtool, token_prompts):
    disk = kvtool.directory / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        done = kvtool.run("save", "--model", exported("llama").path, "--prompts", token_prompts,
                          "--batch-size", 1, "--device", "cpu", "--max-new-tokens", 80,
                          "--ignore-eos", "--out", disk)
        assert done.returncode == ENVIRONMENT, words(done)
        assert "full" in words(done)
        finished = list(disk.rglob("*.kvc"))
        for path in finished:
            kvtool.ok("info", path)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_truncated_recording_replays_what_is_there(recorded, exported, kvtool):
    path = recorded / "batch1_input0.kvc"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.8)])
    done = kvtool.run("replay", "--model", exported("llama").path, "--from", path,
                      "--device", "cpu")
    assert done.returncode == 0, words(done)
    assert "truncated" in words(done)
    assert "truncated" in kvtool.ok("info", path)


def test_damaged_recording_is_named(recorded, exported, kvtool):
    path = recorded / "batch1_input2.kvc"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = replay(kvtool, exported("llama").path)
    assert done.returncode == CORRUPT
    assert "batch1_input2.kvc" in words(done)


def test_prompt_longer_than_the_models_positions(exported, kvtool):
    model = exported("llama")
    limit = model.metadata["max_positions"]
    prompts = kvtool.prompts([{"token_ids": [5] * (limit + 1)}])
    done = kvtool.run("generate", "--model", model.path, "--prompts", prompts, "--device", "cpu",
                      "--max-new-tokens", 4)
    assert done.returncode == USAGE
    assert str(limit) in words(done)


def test_too_many_new_tokens_names_the_most_possible(exported, kvtool):
    model = exported("llama")
    limit = model.metadata["max_positions"]
    prompts = kvtool.prompts([{"token_ids": [5] * 10}])
    done = kvtool.run("generate", "--model", model.path, "--prompts", prompts, "--device", "cpu",
                      "--max-new-tokens", limit)
    assert done.returncode == USAGE
    assert f"--max-new-tokens {limit - 9}" in words(done)


def test_token_id_outside_of_the_vocabulary(exported, kvtool):
    prompts = kvtool.prompts([{"token_ids": [5, 10**6]}])
    done = kvtool.run("generate", "--model", exported("llama").path, "--prompts", prompts,
                      "--device", "cpu")
    assert done.returncode == USAGE
    assert "1000000" in words(done)


def test_cuda_without_cuda(exported, kvtool, token_prompts):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    done = kvtool.run("generate", "--model", exported("llama").path, "--prompts", token_prompts,
                      "--device", "cuda")
    assert done.returncode == ENVIRONMENT
    assert "no usable GPU" in words(done)


def test_missing_engine_names_torch(binary, exported, kvtool, token_prompts):
    alone = kvtool.directory / "bin" / "kvtool"
    alone.parent.mkdir()
    shutil.copy(binary, alone)
    kvtool.binary = alone
    done = kvtool.run("generate", "--model", exported("llama").path, "--prompts", token_prompts,
                      "--device", "cpu")
    assert done.returncode == ENVIRONMENT
    assert "engine" in words(done) and "torch 2." in words(done)


def test_model_that_is_no_export(kvtool, token_prompts):
    path = kvtool.directory / "model.pt"
    path.write_bytes(b"not a zip")
    done = kvtool.run("generate", "--model", path, "--prompts", token_prompts, "--device", "cpu")
    assert done.returncode == ENVIRONMENT
    assert "model.pt" in words(done)


def test_torchscript_of_another_kind(kvtool, token_prompts):
    import torch

    path = kvtool.directory / "other.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    done = kvtool.run("generate", "--model", path, "--prompts", token_prompts, "--device", "cpu")
    assert done.returncode == INCOMPATIBLE
    assert "export" in words(done)


def test_interrupt_keeps_finished_recordings(exported, kvtool):
    prompts = kvtool.prompts([{"token_ids": [5, 6, 7]}] * 200)
    process = subprocess.Popen(
        [str(kvtool.binary), "save", "--model", str(exported("llama").path), "--prompts",
         str(prompts), "--batch-size", "1", "--device", "cpu", "--max-new-tokens", "90",
         "--ignore-eos", "--out", "out"],
        cwd=kvtool.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(kvtool.directory.glob("out/CPU/*/*.kvc")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    finished = list(kvtool.directory.glob("out/CPU/*/*.kvc"))
    assert 0 < len(finished) < 200
    assert "complete" in " ".join(errors.split())
    kvtool.ok("info", "out")
