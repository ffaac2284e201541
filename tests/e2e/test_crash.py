"""Kills and full disks: what was recorded stays, and --resume records the rest.

KVTOOL_CRASH_KILLS sets how often a saving process is killed (default 8).
"""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from recording_content import content, folder_content, is_complete

USAGE, ENVIRONMENT = 2, 5
KILLS = int(os.environ.get("KVTOOL_CRASH_KILLS", "8"))
INPUTS = 12


@pytest.fixture
def prompts(kvtool):
    return kvtool.prompts([{"token_ids": list(range(3 + i, 7 + 2 * i))} for i in range(INPUTS)])


@pytest.fixture
def save(exported, kvtool, prompts):
    """The arguments of one and the same run."""
    def arguments(out, *more, batch=4, threads=1, tokens=60):
        return ["save", "--model", exported("llama").path, "--prompts", prompts,
                "--batch-size", batch, "--device", "cpu", "--threads", threads,
                "--max-new-tokens", tokens, "--ignore-eos", "--out", out, *more]
    return arguments


def folder_of(kvtool, out):
    return next((kvtool.directory / out / "CPU").iterdir())


def words(done):
    return " ".join((done.stdout + done.stderr).split())


def check_what_is_left(folder, whole):
    """Final names are whole, unfinished ones hold a beginning. Returns (finished, unfinished)."""
    finished = unfinished = 0
    for path in folder.iterdir():
        found = content(path)
        if path.suffix == ".partial":
            unfinished += 1
            expected = whole[path.stem]
            assert found == expected[: len(found)], path
        else:
            finished += 1
            assert is_complete(found), path
            assert found == whole[path.name], path
    return finished, unfinished


def start(kvtool, arguments):
    return subprocess.Popen([str(kvtool.binary), *map(str, arguments)], cwd=kvtool.directory,
                            env={**os.environ, "OMP_NUM_THREADS": "1"},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def unfinished_in(folder):
    found = {}
    for path in folder.glob("*.partial"):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # renamed meanwhile
            pass
    return found


def start_and_wait_for_writing(kvtool, arguments, folder):
    """The process, which has begun to record, or has ended. Leftovers are none of its."""
    left = unfinished_in(folder)
    process = start(kvtool, arguments)
    while process.poll() is None and not unfinished_in(folder).items() - left.items():
        time.sleep(0.002)
    return process


def test_killed_at_random_moments(kvtool, save):
    kvtool.ok(*save("whole"))
    whole = folder_content(folder_of(kvtool, "whole"))
    assert len(whole) == INPUTS
    folder = kvtool.directory / "out" / "CPU" / folder_of(kvtool, "whole").name
    chance = random.Random(5)
    killed = completed = with_partial = 0
    while killed < KILLS:
        process = start_and_wait_for_writing(kvtool, save("out", "--resume"), folder)
        time.sleep(chance.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), errors
        killed += process.returncode != 0
        finished, unfinished = check_what_is_left(folder, whole)
        with_partial += unfinished > 0
        if process.returncode == 0:
            assert folder_content(folder) == whole
            completed += 1
            shutil.rmtree(folder)
    kvtool.ok(*save("out", "--resume"))
    assert folder_content(folder) == whole
    print(f"{killed} kills, {with_partial} left unfinished recordings, "
          f"{completed} runs reached the end")


@pytest.mark.parametrize("mode", ["delta", "prefill_only", "final_only"])
def test_a_missing_row_is_recorded_again_and_its_neighbours_stay(kvtool, save, mode):
    kvtool.ok(*save("out", "--save-mode", mode))
    folder = folder_of(kvtool, "out")
    whole = folder_content(folder)
    (folder / "batch4_input5.kvc").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = kvtool.run(*save("out", "--save-mode", mode, "--resume", "--fsync"))
    assert done.returncode == 0, words(done)
    assert "11 of 12 recordings" in words(done)
    assert folder_content(folder) == whole
    for name, data in before.items():
        assert (folder / name).read_bytes() == data
    report = kvtool.json("replay", "--from", folder, "--model", save("out")[2], "--device", "cpu",
                         "--threads", 1)
    assert kvtool.bitwise_equal_inputs(report) == INPUTS


def test_another_setting_or_device_is_refused(kvtool, save):
    kvtool.ok(*save("out"))
    folder = folder_of(kvtool, "out")
    (folder / "batch4_input5.kvc").unlink()
    for more, change, field in (([], {"threads": 2}, "CPU threads 1, this run has 2"),
                                ([], {"tokens": 61}, "max_new_tokens 60, this run has 61"),
                                (["--cpu-isa", "sse41"], {}, "this run has")):
        done = kvtool.run(*save("out", "--resume", *more, **change))
        assert done.returncode == USAGE, words(done)
        assert "batch4_input0.kvc" in words(done) and field in words(done)
    assert not (folder / "batch4_input5.kvc").exists()


def test_two_runs_at_once(kvtool, save):
    first = start(kvtool, save("out", "--request-number", 400, tokens=90))
    folder = kvtool.directory / "out" / "CPU"
    while first.poll() is None and not any(folder.glob("*/*.kvc")):
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)  # it cannot end before the second one has looked
    try:
        before = {path: path.read_bytes() for path in folder.glob("*/*.kvc")}
        for more, batch in ((["--resume"], 4), (["--force"], 4), ([], 1)):
            done = kvtool.run(*save("out", *more, batch=batch))
            assert done.returncode == ENVIRONMENT, words(done)
            assert f"another kvtool (pid {first.pid}) is writing to this folder" in words(done)
        assert before == {path: path.read_bytes() for path in before}
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=60)
    done = kvtool.run(*save("out", "--request-number", 8, "--resume", tokens=90))
    assert done.returncode == 0, words(done)


@pytest.fixture
def small_disk(kvtool):
    disk = kvtool.directory / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_and_then_more_room(kvtool, save, small_disk):
    kvtool.ok(*save("whole"))
    whole = folder_content(folder_of(kvtool, "whole"))
    size = sum(path.stat().st_size for path in folder_of(kvtool, "whole").iterdir())
    filler = small_disk / "filler"
    # Room for about half of the recordings.
    filler.write_bytes(bytes(2_000_000 - size // 2))
    done = kvtool.run(*save(small_disk))
    assert done.returncode == ENVIRONMENT, words(done)
    assert "disk full" in words(done) and "--resume" in words(done)
    folder = folder_of(kvtool, small_disk)
    finished, unfinished = check_what_is_left(folder, whole)
    assert unfinished > 0
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    kvtool.ok(*save(small_disk, "--resume"))
    assert folder_content(folder) == whole


def test_a_read_only_disk(kvtool, save, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = kvtool.run(*save(small_disk))
    assert done.returncode == ENVIRONMENT, words(done)
    assert "Read-only file system" in words(done) and str(small_disk) in words(done)
