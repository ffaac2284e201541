"""tools/bench.py end to end on a tiny model: that every row runs and is judged, not how fast."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tools"))

from benchmark.results import Line, Report, Side, Target, cost, speedup  # noqa: E402
from benchmark.rows import ROWS  # noqa: E402


def bench(*arguments):
    command = [sys.executable, str(REPOSITORY / "tools" / "bench.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def quick_run(binary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    done = bench(
        "--quick",
        "--kvtool",
        binary,
        "--baseline",
        binary,
        "--work",
        folder / "work",
        "--json",
        folder / "bench.json",
        "--markdown",
        folder / "bench.md",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "bench.json").read_text()), folder


def test_every_row_is_measured_or_says_what_is_missing(quick_run):
    _, report, _ = quick_run
    assert [row.name for row in ROWS] == list(
        dict.fromkeys(line["row"] for line in report["lines"])
    )
    for line in report["lines"]:
        if line["status"] == "not available":
            assert line["note"], line
            continue
        assert line["status"] in ("PASS", "FAIL", "-"), line
        assert line["measured"]["values"], line
        assert line["figure"] is not None, line


def test_rows_that_this_build_has_are_measured(quick_run):
    _, report, _ = quick_run
    missing = {line["row"] for line in report["lines"] if line["status"] == "not available"}
    assert missing <= {"parallel", "context", "size", "llama-cpp"}


def test_the_peer_writes_the_same_tokens(quick_run):
    _, report, _ = quick_run
    (line,) = [line for line in report["lines"] if line["row"] == "decode-f32"]
    assert line["note"] == "6 of 6 tokens the same"


def test_the_limits_of_the_machine_stand_beside(quick_run):
    text, report, folder = quick_run
    for name in ("CPU", "threads", "torch", "memory read bandwidth", "disk write with fsync"):
        assert report["machine"][name], name
        assert name in text
    page = (folder / "bench.md").read_text()
    assert "| memory read bandwidth |" in page
    assert "decode, bfloat16, batch 1" in page


def test_nothing_but_models_is_left(quick_run):
    _, _, folder = quick_run
    left = {path.suffix or path.name for path in (folder / "work").iterdir()}
    assert left == {".pt", "tiny_model"}


def script():
    spec = importlib.util.spec_from_file_location("bench_script", REPOSITORY / "tools" / "bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_list_names_the_rows(capsys):
    assert script().main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [row.name for row in ROWS]


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--only", "speed"], "no row speed"),
        (["--kvtool", "missing/kvtool"], "is missing"),
        (["--repeats", "0"], "at least 1"),
        (["--threads", "0"], "at least 1"),
        (["--baseline", "missing/kvtool"], "no file missing/kvtool"),
        (["--json", "missing/x.json"], "does not exist"),
    ],
)
def test_typical_mistakes_are_usage_errors(binary, mistake, message, capsys):
    with pytest.raises(SystemExit) as ended:
        script().main(["--kvtool", str(binary), *mistake])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_row_that_fails_costs_no_other_and_sets_the_status(binary, tmp_path):
    """A binary that can do nothing but measure recordings."""
    broken = tmp_path / "kvtool"
    broken.write_text(f'#!/bin/sh\ncase $1 in bench|info) exec {binary} "$@";; esac\nexit 5\n')
    broken.chmod(0o755)
    target = tmp_path / "bench.json"
    options = ["--quick", "--only", "parallel,rebuild,info", "--kvtool", str(broken)]
    work = tmp_path / "work"
    assert script().main([*options, "--work", str(work), "--json", str(target)]) == 1
    lines = json.loads(target.read_text())["lines"]
    for row in ("parallel", "rebuild"):
        (line,) = [line for line in lines if line["row"] == row]
        assert line["status"] == "not measured" and "ended with 5" in line["note"]
    assert all(line["figure"] is not None for line in lines if line["row"] == "info")


def test_check_turns_a_missed_target_into_status_1(binary, tmp_path, monkeypatch):
    module = script()
    slow, fast = Side("a", "ms", [3.0, 2.0, 4.0]), Side("b", "ms", [1.0, 1.0, 1.0])
    missed = module.Row("x", "about", lambda work: [cost("t", slow, fast, Target(maximum=1.03))])
    monkeypatch.setattr(module, "chosen", lambda only: [missed])
    common = ["--quick", "--kvtool", str(binary), "--work", str(tmp_path)]
    assert module.main(common) == 0
    assert module.main([*common, "--check"]) == 1


@pytest.mark.parametrize(
    ("line", "figure", "status"),
    [
        (
            speedup("t", Side("a", "ms", [2, 1, 9]), Side("b", "ms", [3]), Target(minimum=1.4)),
            1.5,
            "PASS",
        ),
        (
            speedup("t", Side("a", "ms", [2]), Side("b", "ms", [2]), Target(minimum=1.4)),
            1.0,
            "FAIL",
        ),
        (
            cost("t", Side("a", "ms", [1.03]), Side("b", "ms", [1]), Target(maximum=1.03)),
            1.03,
            "PASS",
        ),
        (
            cost("t", Side("a", "ms", [1.04]), Side("b", "ms", [1]), Target(maximum=1.03)),
            1.04,
            "FAIL",
        ),
        (cost("t", Side("a", "ms", [5]), Side("b", "ms", [1]), None), 5.0, "-"),
    ],
)
def test_a_target_is_judged_by_the_ratio_of_the_medians(line, figure, status):
    assert line.figure == pytest.approx(figure)
    assert line.status == status


def test_a_line_without_figures_can_be_shown():
    report = Report({"CPU": "x"}, {})
    report.add("pack", [Line("packing", status="not available", note="no command pack")])
    assert "not available (no command pack)" in report.text()
    assert "| packing |  |  |  |  | not available (no command pack) |" in report.markdown()
    json.dumps(report.as_json())
