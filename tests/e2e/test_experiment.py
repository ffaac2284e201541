"""kvtool experiment on tiny models: what it writes is what generations and replays say."""

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = sorted(REPOSITORY.glob("configs/experiment_*"))
SMALL = ["--device", "cpu", "--context", "48", "--runs", "2", "--max-new-tokens", "9",
         "--page-size", "4", "--max-device-pages", "4"]
PROMPT = [{"token_ids": [(7 * i) % 90 + 3 for i in range(48)]}]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "experiment_summary.json").read_text())


@pytest.fixture
def model(exported):
    # Three layers, of which a selection leaves two as they are.
    return exported("deepseek_v3").path


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_the_examples_run(kvtool, model, config):
    kvtool.prompts(PROMPT)
    for name in ("configs", "models"):
        (kvtool.directory / name).mkdir()
    shutil.copy(config, kvtool.directory / "configs")
    shutil.copy(REPOSITORY / "configs" / "prompts.jsonl", kvtool.directory / "configs")
    kvtool.ok("experiment", "--config", f"configs/{config.name}", "--model", model, *SMALL,
              "--prompts", "prompts.jsonl", "--output", "out")
    summary = summary_of(kvtool.directory / "out")
    total = summary["experiment_summary"]["total_experiments"]
    assert summary["experiment_summary"]["successful_experiments"] == total > 0
    for experiment in summary["experiments"]:
        assert experiment["success"] and len(experiment["files"]) == 2
        for name in experiment["files"]:
            run = json.loads((kvtool.directory / "out" / name).read_text())
            assert run["status"] == "complete" and len(run["step_ms"]) == 8
    mode = config.stem.removeprefix("experiment_")
    if mode != "config":
        assert mode in summary["mode_summaries"]


@pytest.fixture
def experiment(kvtool, model):
    kvtool.prompts(PROMPT)
    kvtool.ok("experiment", "--model", model, *SMALL, "--prompts", "prompts.jsonl", "--output", "out")
    return summary_of(kvtool.directory / "out")


def test_quality_is_that_of_a_replay_of_the_baseline(kvtool, model, experiment):
    kvtool.ok("save", "--model", model, "--device", "cpu", "--prompts", "prompts.jsonl",
              "--max-new-tokens", 9, "--ignore-eos", "--out", "ref_cache")
    for row in experiment["experiments"]:
        replay = ["replay", "--from", "CPU", "--model", model, "--device", "cpu",
                  "--kv-cache", row["spec"], "--mode", "forced"]
        done = kvtool.run(*replay)
        if done.returncode not in (0, 1):  # a cache that does nothing is an error there
            assert row["acted"] is False, done.stderr
            continue
        figures = kvtool.figures(kvtool.json(*replay, expect=done.returncode))
        for name, figure in {"compared": "compared", "matches": "matches",
                             "hard_flips": "hard_flips"}.items():
            assert row["quality"][name] == figures[f"forced.tokens.{figure}"], row["mode"]
        assert row["quality"]["kl_mean"] == figures["forced.kl_estimate.mean"]


def test_figures_of_each_mode_are_those_of_its_runs(kvtool, experiment):
    for mode, summary in experiment["mode_summaries"].items():
        (row,) = [each for each in experiment["experiments"] if each["mode"] == mode]
        runs = [json.loads((kvtool.directory / "out" / name).read_text()) for name in row["files"]]
        latencies = [run["first_token_ms"] + sum(run["step_ms"]) for run in runs]
        assert summary["average_latency_ms"] == pytest.approx(sum(latencies) / 2)
        assert summary["spread"]["latency_ms"]["min"] == pytest.approx(min(latencies))
        assert summary["average_tokens_per_second"] == pytest.approx(
            sum(8e3 / sum(run["step_ms"]) for run in runs) / 2)
        assert row["peak_bytes_by_place"][0]["peak_bytes"] > 0


def test_pages_move_and_a_step_sees_a_part(experiment):
    rows = {row["mode"]: row for row in experiment["experiments"]}
    assert rows["baseline"]["quality"]["agreement"] == 1
    assert rows["baseline"]["quality"]["kl_mean"] == 0
    assert rows["baseline"]["moved_bytes"]["max"] == 0
    for mode in ("reactive", "predictive"):
        assert rows[mode]["acted"] and rows[mode]["moved_bytes"]["min"] > 0
        assert 0 < rows[mode]["cache_hit_rate"]["median"] < 1
        assert 0 < rows[mode]["stall_share"]["median"] < 1
        assert {place["place"] for place in rows[mode]["peak_bytes_by_place"]} == {"cpu", "host"}
    assert rows["window"]["quality"]["kl_mean"] > 0
    # 48 positions are fewer than kivi keeps whole.
    assert rows["quantized"]["acted"] is False
    assert experiment["comparative_analysis"]["quantized"]["latency_speedup_percent"] is None
    assert experiment["comparative_analysis"]["window"]["quality"]["compared"] == 8


def test_pictures_stand_by_themselves(kvtool, experiment):
    folder = kvtool.directory / "out"
    picture = xml.etree.ElementTree.parse(folder / "plots" / "kv_cache_comparison.svg")
    assert "var(" not in (folder / "plots" / "kv_cache_comparison.svg").read_text()
    words = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "Latency of a generation, ms" in words and "reactive" in words
    page = (folder / "experiment.html").read_text()
    assert page.count("<figure") >= 4 and "http://" not in page.replace("http://www.w3.org", "")
    tool = [sys.executable, REPOSITORY / "tools" / "plot_experiment.py", folder]
    done = subprocess.run(tool, capture_output=True, text=True)
    if importlib.util.find_spec("matplotlib"):
        assert done.returncode == 0, done.stderr
        assert (folder / "plots" / "kv_cache_comparison.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert done.returncode == 5 and "has no matplotlib" in done.stderr


def test_ctrl_c_keeps_what_is_done_and_resume_goes_on(kvtool, model):
    command = [str(kvtool.binary), "experiment", "--model", str(model), "--device", "cpu", "--mode",
               "baseline", "--mode", "int8", "--context", "40", "--max-new-tokens", "60",
               "--output", "out", "--no-plots"]
    first = kvtool.directory / "out" / "baseline_1_ctx40_run1.json"
    running = subprocess.Popen([*command, "--runs", "2000"], cwd=kvtool.directory,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not first.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    kept = first.read_bytes()
    summary = summary_of(kvtool.directory / "out")
    assert summary["interrupted"] and summary["experiments"][0]["completed_runs"] >= 1
    kvtool.ok(*command[1:], "--runs", "2", "--resume")
    summary = summary_of(kvtool.directory / "out")
    assert not summary["interrupted"]
    assert [row["completed_runs"] for row in summary["experiments"]] == [2, 2]
    assert summary["experiments"][0]["resumed_runs"] >= 1 and first.read_bytes() == kept


def test_a_long_context_is_shortened(kvtool, exported):
    kvtool.ok("experiment", "--model", exported("gpt2").path, "--device", "cpu", "--mode", "baseline",
              "--context", "100000", "--runs", "1", "--max-new-tokens", "3", "--output", "out")
    (row,) = summary_of(kvtool.directory / "out")["experiments"]
    assert row["shortened"] and row["context_length"] < 100000


def test_a_local_checkpoint_is_exported_first(kvtool, exported):
    shutil.copytree(exported("llama").directory, kvtool.directory / "Tiny Checkpoint")
    command = ["experiment", "--model", "Tiny Checkpoint", "--dtype", "float32", "--device", "cpu",
               "--mode", "baseline", "--mode", "int8", "--context", "8", "--runs", "1",
               "--max-new-tokens", "3"]
    done = kvtool.run(*command, "--output", "out", env={"KVTOOL_PYTHON": sys.executable})
    assert done.returncode == 0, done.stderr
    assert "exporting the checkpoint Tiny Checkpoint" in done.stderr
    assert (kvtool.directory / "models" / "tiny_checkpoint.pt").exists()
    assert summary_of(kvtool.directory / "out")["experiments"][1]["quality"]["compared"] == 2
    again = kvtool.run(*command, "--output", "again")
    assert again.returncode == 0 and "exporting" not in again.stderr


def test_a_checkpoint_that_cannot_be_exported_says_why(kvtool):
    (kvtool.directory / "broken").mkdir()
    (kvtool.directory / "broken" / "config.json").write_text("{}")
    done = kvtool.run("experiment", "--model", "broken", "--mode", "baseline", "--output", "out",
                      env={"KVTOOL_PYTHON": sys.executable})
    assert done.returncode == 5
    assert "the checkpoint broken could not be exported (exit status" in done.stderr
