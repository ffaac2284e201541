"""Exports are kept until something that made them changes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from export_cache import ExportCache, fingerprint


def filled_with(text):
    def fill(folder: Path) -> None:
        (folder / "model.pt").write_text(text)

    return fill


def never(folder: Path) -> None:
    raise AssertionError("made again")


def test_made_once_for_all_runs(tmp_path):
    made = ExportCache(tmp_path, "sources").get("llama", filled_with("weights"))
    assert ExportCache(tmp_path, "sources").get("llama", never) == made
    assert (made / "model.pt").read_text() == "weights"


def test_other_sources_and_other_names_are_made_for_themselves(tmp_path):
    old = ExportCache(tmp_path, "old").get("llama", filled_with("old"))
    cache = ExportCache(tmp_path, "new")
    assert (cache.get("llama", filled_with("new")) / "model.pt").read_text() == "new"
    assert (cache.get("gpt2", filled_with("gpt2")) / "model.pt").read_text() == "gpt2"
    assert (old / "model.pt").read_text() == "old"


def test_what_failed_half_way_is_not_kept(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "model.pt").write_text("half")
        raise OSError("disk full")

    cache = ExportCache(tmp_path, "sources")
    with pytest.raises(OSError, match="disk full"):
        cache.get("llama", fail)
    made = cache.get("llama", filled_with("whole"))
    assert (made / "model.pt").read_text() == "whole"
    assert {path.name for path in made.parent.iterdir()} == {"llama", "llama.lock"}


def test_two_processes_make_it_once(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from export_cache import ExportCache\n"
        "def fill(folder):\n"
        "    with open(pathlib.Path(sys.argv[1]) / 'made', 'a') as log: log.write('x')\n"
        "    time.sleep(0.3)\n"
        "ExportCache(pathlib.Path(sys.argv[1]) / 'cache', 'sources').get('llama', fill)\n"
    )
    tests = str(Path(__file__).resolve().parents[1])
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)],
                         env={**os.environ, "PYTHONPATH": tests})
        for _ in range(3)
    ]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    assert (tmp_path / "made").read_text() == "x"


def test_what_nobody_used_for_a_day_goes(tmp_path):
    for name, hours in (("yesterday", 30), ("today", 2)):
        ExportCache(tmp_path, name).get("llama", filled_with(name))
        then = time.time() - hours * 3600
        os.utime(tmp_path / name, (then, then))
    ExportCache(tmp_path, "now")
    assert {path.name for path in tmp_path.iterdir()} == {"today", "now"}


def test_every_byte_of_a_source_counts(tmp_path):
    source = tmp_path / "export.py"
    source.write_text("one")
    one = fingerprint([source])
    assert fingerprint([source]) == one
    source.write_text("two")
    assert fingerprint([source]) != one
    assert fingerprint([]) not in (one, fingerprint([source]))
