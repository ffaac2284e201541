"""kvtool calibrate: a gate from the noise that this machine makes against itself."""

import json
import os
import signal
import subprocess
import time

import pytest


@pytest.fixture
def model(exported):
    return exported("llama", "bfloat16").path


def calibrate(kvtool, model, *arguments):
    return kvtool.json("calibrate", "--model", model, "--device", "cpu", "--out", "gate.json",
                       "--runs", 5, *arguments)["calibrations"][0]


def test_records_a_reference_and_writes_a_gate_with_its_evidence(kvtool, model, token_prompts):
    calibration = calibrate(kvtool, model, "--prompts", token_prompts, "--batch-size", 3,
                            "--max-new-tokens", 12, "--ignore-eos")
    assert [run["name"] for run in calibration["runs"]][0] == "as recorded"
    assert len({run["name"] for run in calibration["runs"]}) == 5
    gate = json.loads((kvtool.directory / "gate.json").read_text())
    assert gate["noise_z"] >= 4
    assert {"inject.kl_estimate.p99", "forced.kl_estimate.p99"} <= gate["rules"].keys()
    evidence = gate["evidence"]
    assert evidence["model"]["weights_sha256"]
    assert evidence["device"]["provenance"]["torch_version"]
    assert len(evidence["runs"]) == 5
    for run in evidence["runs"]:
        for figure, bounds in gate["rules"].items():
            assert bounds.get("min", 0) <= run["figures"][figure]
            # A budget of ties counts whole tokens, rounded up.
            if not figure.endswith("tie_rate"):
                assert run["figures"][figure] <= bounds.get("max", 1)
    # Nothing of the temporary reference is left behind.
    assert not list(kvtool.directory.rglob("*.kvc"))


def test_the_gate_passes_a_replay_of_given_recordings(kvtool, model, token_prompts):
    kvtool.ok("save", "--model", model, "--prompts", token_prompts, "--batch-size", 3,
              "--max-new-tokens", 12, "--ignore-eos", "--device", "cpu", "--out", "ref_cache")
    calibrate(kvtool, model, "--from", "CPU")
    kvtool.ok("replay", "--model", model, "--from", "CPU", "--device", "cpu",
              "--mode", "inject,forced", "--batch", 1, "--gate", "gate.json")
    # The modes that the gate asks for are run without being named, by both.
    kvtool.ok("replay", "--model", model, "--from", "CPU", "--device", "cpu", "--gate", "gate.json")
    kvtool.ok("selftest", "--model", model, "--from", "CPU", "--device", "cpu", "--quick",
              "--gate", "gate.json")


def test_the_gate_fails_another_model(kvtool, model, exported, token_prompts):
    kvtool.ok("save", "--model", model, "--prompts", token_prompts, "--max-new-tokens", 8,
              "--ignore-eos", "--device", "cpu", "--out", "ref_cache")
    calibrate(kvtool, model, "--from", "CPU")
    other = exported("llama", "float16").path
    report = kvtool.json("replay", "--model", other, "--from", "CPU", "--device", "cpu",
                         "--mode", "inject,forced", "--gate", "gate.json",
                         "--allow-different-weights", expect=1)
    failed = [rule for rule in report["verdicts"][0]["gate"]["rules"] if not rule["passed"]]
    assert failed


def test_an_existing_gate_is_kept(kvtool, model, token_prompts):
    gate = kvtool.directory / "gate.json"
    gate.write_text("precious")
    done = kvtool.run("calibrate", "--model", model, "--prompts", token_prompts, "--out", gate)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert gate.read_text() == "precious"


def test_errors_of_a_replay_come_through(kvtool, model):
    done = kvtool.run("calibrate", "--model", model, "--from", "NO_SUCH_DEVICE", "--out", "gate.json")
    assert done.returncode == 2
    assert "NO_SUCH_DEVICE" in done.stderr
    assert not (kvtool.directory / "gate.json").exists()


@pytest.fixture
def started(kvtool, model, token_prompts):
    """A long calibration in a process group of its own, and its first worker's process id."""
    temporary = kvtool.directory / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [str(kvtool.binary), "calibrate", "--model", str(model), "--prompts", str(token_prompts),
         "--device", "cpu", "--max-new-tokens", "200", "--ignore-eos", "--runs", "1000",
         "--out", "gate.json"],
        cwd=kvtool.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(temporary)}, start_new_session=True)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    deadline = time.monotonic() + 60
    # The worker is there once it has its own name, and no longer that of a copy of calibrate.
    while time.monotonic() < deadline and process.poll() is None:
        for child in open(children).read().split():
            if b"calibrate-worker" in open(f"/proc/{child}/cmdline", "rb").read():
                return process, int(child)
        time.sleep(0.01)
    pytest.fail("calibrate started no worker")


def end_of(kvtool, process):
    output, errors = process.communicate(timeout=60)
    assert not (kvtool.directory / "gate.json").exists()
    assert not list((kvtool.directory / "temporary").iterdir())
    return process.returncode, errors


def test_ctrl_c_ends_it_and_its_worker(kvtool, started):
    process, worker = started
    os.killpg(process.pid, signal.SIGINT)
    status, errors = end_of(kvtool, process)
    assert status == 130, errors
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_an_interrupted_worker_ends_it_too(kvtool, started):
    process, worker = started
    os.kill(worker, signal.SIGINT)
    status, errors = end_of(kvtool, process)
    assert status == 130, errors


def test_a_worker_that_dies_is_told(kvtool, started):
    process, worker = started
    os.kill(worker, signal.SIGKILL)
    status, errors = end_of(kvtool, process)
    assert status == 5, errors
    assert "recording the reference failed with exit status 137" in errors


def test_the_worker_alone_has_nothing_to_do(kvtool):
    done = subprocess.run([str(kvtool.binary), "calibrate-worker"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "run kvtool calibrate instead" in done.stderr
