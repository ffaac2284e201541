"""Tries to export a tiny model of one type, in a process with limits of time and memory."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

# No trial asks a network. Read when transformers is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from kvtool import export, tiny_configs, tiny_models  # noqa: E402
from kvtool.errors import EXIT_USAGE  # noqa: E402

EXPORTS, REFUSED = "exports", "refused"
# Nothing is known about the exporter: the tiny model was not made, does not run, took too long.
UNTRIED = "not tried"


@dataclass(frozen=True)
class Result:
    """What became of a type, and the exporter's message, or what kept it from being tried."""

    type: str
    outcome: str
    message: str = ""


@dataclass(frozen=True)
class Limits:
    """Of one type's process."""

    seconds: int
    memory_bytes: int


def all_types() -> list[str]:
    """The types that transformers has a causal language model for."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def run(model_type: str, folder: Path, scratch: Path, limits: Limits) -> Result:
    """Makes the tiny model of `model_type` in `folder`, which stays, and exports it."""
    answer = scratch / f"{model_type}.json"
    # Forked: what a second of imports takes is there already.
    process = multiprocessing.get_context("fork").Process(
        target=_child, args=(model_type, folder, scratch, limits, answer)
    )
    process.start()
    process.join(limits.seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return Result(model_type, UNTRIED, f"it took longer than {limits.seconds} s")
    if not answer.is_file():
        return Result(model_type, UNTRIED, f"its process ended with {process.exitcode}")
    return Result(model_type, **json.loads(answer.read_text()))


def _child(model_type, folder: Path, scratch: Path, limits: Limits, answer: Path) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes, limits.memory_bytes))
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with open(scratch / f"{model_type}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            outcome, message = attempt(model_type, folder, scratch / f"{model_type}.pt")
        except MemoryError:
            outcome, message = UNTRIED, "it took more memory than the limit"
    answer.write_text(json.dumps({"outcome": outcome, "message": message}))


def attempt(model_type: str, folder: Path, output: Path) -> tuple[str, str]:
    """Outcome and message; the tiny model stays in `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        config = tiny_configs.tiny_config(model_type)
    except Exception as error:
        return UNTRIED, f"no tiny config: {_first_line(error)}"
    _save_config(config, model_type, folder)
    # Many are refused by their config alone; the others end at the weights that are not there.
    status, message = run_exporter(folder, output)
    if status == EXIT_USAGE:
        return REFUSED, message
    try:
        model = tiny_models.model_of(config)
        model.save_pretrained(folder)
    except Exception as error:
        return UNTRIED, f"no tiny model: {_first_line(error)}"
    _save_config(config, model_type, folder)
    status, message = run_exporter(folder, output)
    output.unlink(missing_ok=True)
    if status == 0:
        return EXPORTS, ""
    broken = _runs(model)
    if broken:
        return UNTRIED, f"the tiny model does not run: {broken}; the exporter: {message}"
    return (REFUSED if status == EXIT_USAGE else UNTRIED), message


def run_exporter(folder: Path, output: Path) -> tuple[int, str]:
    """Status and error message of tools/export_model.py for the model in `folder`."""
    said = io.StringIO()
    arguments = ["--model", str(folder), "--dtype", "float32", "--no-tokenizer"]
    with contextlib.redirect_stderr(said):
        status = export.main([*arguments, "--output", str(output)])
    errors = [line for line in said.getvalue().splitlines() if ": error: " in line]
    message = errors[-1].split(": error: ", 1)[1] if errors else ""
    return status, message.replace(f"{folder}: ", "")


def _save_config(config, model_type: str, folder: Path) -> None:
    """config.json under the name of the type: some share a config class."""
    config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": model_type}))


def _runs(model) -> str:
    """What transformers raises for a few tokens, "" if nothing."""
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(3, 10)[None], use_cache=False)
        return ""
    except Exception as error:
        return _first_line(error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: " + " ".join(str(error).split())[:200]
