"""One cell: a model's recordings replayed with one difference, judged, and tested for power."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from fidelity import models

BATCH = 8
# What the faults are tried on: a selftest replays once for each, and for each strength.
FAULT_INPUTS = 4
FAULT_TOKENS = 64


@dataclass(frozen=True)
class Difference:
    name: str
    options: tuple[str, ...]
    about: str


DIFFERENCES = (
    Difference("avx2", ("--cpu-isa", "avx2"), "AVX2 in place of AVX-512 with bf16"),
    Difference("avx512", ("--cpu-isa", "avx512"), "AVX-512 without bf16"),
    Difference("1 thread", ("--threads", "1"), "one thread"),
    Difference("batch 1", ("--batch", "1"), "one input at a time"),
    Difference("parallel", ("--parallel",), "all steps in one pass"),
)


@dataclass(frozen=True)
class Cell:
    model: str
    difference: str
    passed: bool
    failures: list[str]
    figures: dict[str, float]
    caught: int | None = None  # faults of selftest; None: not tried yet
    faults: int = 0
    missed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Power:
    """The smallest strength of each fault that is caught, against the recording device."""

    model: str
    smallest: dict[str, float | None]


class Laboratory:
    """Runs kvtool; keeps models and recordings in its folder."""

    def __init__(self, binary: Path, folder: Path, inputs: int, tokens: int):
        self.binary, self.folder = binary, folder
        self.inputs, self.tokens = inputs, tokens
        self.folder.mkdir(parents=True, exist_ok=True)

    def recordings(self, model: models.Model, inputs: int, tokens: int) -> Path:
        target = self.folder / "recordings" / f"{model.name}_{inputs}x{tokens}"
        if (target / "done").is_file():
            return target / "HERE"
        prompts = self.folder / f"prompts_{model.name}.jsonl"
        lines = [json.dumps({"token_ids": ids}) for ids in models.prompts(model, inputs)]
        prompts.write_text("\n".join(lines) + "\n")
        self._run(
            "save", "--model", models.exported(model, self.folder), "--prompts", prompts,
            "--batch-size", min(BATCH, inputs), "--max-new-tokens", tokens, "--ignore-eos",
            "--device", "cpu", "--device-label", "HERE", "--out", target, "--force",
        )  # fmt: skip
        (target / "done").touch()
        return target / "HERE"

    def replay(self, model: models.Model, difference: Difference) -> Cell:
        """Without a fault."""
        common = ("--model", models.exported(model, self.folder), "--gate", model.gate)
        report = self._run(
            "replay", "--from", self.recordings(model, self.inputs, self.tokens), *common,
            "--mode", "inject,forced", *difference.options, accept=(0, 1),
        )  # fmt: skip
        verdict = report["verdicts"][0]
        failures = [rule["figure"] for rule in verdict["gate"]["rules"] if not rule["passed"]]
        return Cell(
            model=model.name,
            difference=difference.name,
            passed=verdict["gate"]["passed"],
            failures=failures,
            figures=verdict["figures"],
        )

    def with_faults(self, cell: Cell, model: models.Model, difference: Difference) -> Cell:
        """`cell` and what a selftest with the same difference catches."""
        selftest = self._selftest(model, "--quick", *difference.options)
        tried = [fault for fault in selftest["faults"] if not fault.get("skipped")]
        missed = [fault["name"] for fault in tried if not fault["caught"]]
        failures = list(cell.failures)
        if not selftest["control"]["passed"]:
            failures.append("selftest: the replay without a fault")
        return dataclasses.replace(
            cell,
            failures=failures,
            caught=len(tried) - len(missed),
            faults=len(tried),
            missed=missed,
        )

    def power(self, model: models.Model) -> Power:
        found = self._selftest(model)
        return Power(
            model.name, {fault["name"]: fault["smallest_caught"] for fault in found["faults"]}
        )

    def _selftest(self, model: models.Model, *options) -> dict:
        reference = self.recordings(model, FAULT_INPUTS, FAULT_TOKENS)
        report = self._run(
            "selftest", "--from", reference, "--model", models.exported(model, self.folder),
            "--gate", model.gate, *options, accept=(0, 1),
        )  # fmt: skip
        return report["selftests"][0]

    def _run(self, *arguments, accept=(0,)) -> dict:
        target = self.folder / "report.json"
        target.unlink(missing_ok=True)
        command = [str(self.binary), *map(str, arguments), "--json", str(target), "--quiet"]
        environment = {**os.environ, "KVTOOL_PYTHON": sys.executable}
        started = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        print(f"{time.monotonic() - started:6.1f} s  {' '.join(command[1:])}", file=sys.stderr)
        if done.returncode not in accept:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return json.loads(target.read_text())
