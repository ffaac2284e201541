"""Rows that run a model."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .results import Line, NotAvailable, NotMeasured, Side, Target, cost, speedup
from .workspace import GGUF_PACKAGE, Workspace, seconds_per_step, tokens_per_second

MS_PER_TOKEN = "ms/token"
Value = TypeVar("Value")


def alternate(repeats: int, *sides: Callable[[], Value]) -> list[list[Value]]:
    """Each side once in every repeat, so that what slows the machine slows all of them."""
    values: list[list[Value]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, into in zip(sides, values):
            into.append(side())
    return values


def _per_token(label: str, seconds: list[float], rows: int = 1) -> Side:
    return Side(label, MS_PER_TOKEN, [value * 1e3 / rows for value in seconds])


def decode(dtype: str, minimum: float) -> Callable[[Workspace], list[Line]]:
    def measure(work: Workspace) -> list[Line]:
        sizes = work.sizes
        prompts = work.prompts(1, sizes.prompt_tokens)
        options = work.generation(dtype, prompts, sizes.new_tokens)
        peer = work.peer(dtype)
        tokens: dict[str, list] = {}

        def kvtool() -> float:
            report = work.run("generate", *options)
            tokens["kvtool"] = report["results"][0]["generated"]["tokens"]
            return seconds_per_step(report)

        def python() -> float:
            rows, seconds = peer.generate(prompts, sizes.new_tokens)
            tokens["python"] = rows[0]
            return seconds

        ours, theirs = alternate(work.repeats, kvtool, python)
        same = sum(a == b for a, b in zip(tokens["kvtool"], tokens["python"]))
        return [
            speedup(
                f"decode, {dtype}, batch 1",
                _per_token("generate", ours),
                _per_token("transformers", theirs),
                Target(minimum=minimum),
                note=f"{same} of {sizes.new_tokens} tokens the same",
            )
        ]

    return measure


def save(batch: int | None) -> Callable[[Workspace], list[Line]]:
    """batch None: the size of the batched row."""

    def measure(work: Workspace) -> list[Line]:
        sizes = work.sizes
        rows = batch or sizes.batch
        new_tokens = sizes.new_tokens if rows == 1 else sizes.batch_tokens
        prompts = work.prompts(rows, sizes.prompt_tokens)
        options = work.generation("bfloat16", prompts, new_tokens)
        peer = work.peer("bfloat16")

        def saved() -> float:
            out = work.fresh("saved")
            return seconds_per_step(work.run("save", *options, "--out", out))

        base, ours, peer_base, theirs = alternate(
            work.repeats,
            lambda: seconds_per_step(work.run("generate", *options)),
            saved,
            lambda: peer.generate(prompts, new_tokens)[1],
            lambda: peer.record(prompts, new_tokens, work.fresh("peer")),
        )
        return [
            cost(
                f"save, batch {rows}",
                _per_token("save", ours, rows),
                _per_token("generate", base, rows),
                Target(maximum=1.03),
            ),
            cost(
                f"the same in Python, batch {rows}",
                _per_token("torch.save", theirs, rows),
                _per_token("transformers", peer_base, rows),
                None,
            ),
        ]

    return measure


def replay(work: Workspace) -> list[Line]:
    sizes = work.sizes
    prompts = work.prompts(1, sizes.prompt_tokens)
    options = work.generation("bfloat16", prompts, sizes.new_tokens)
    recordings, peer_folder = work.fresh("recordings"), work.fresh("peer")
    work.run("save", *options, "--out", recordings)
    peer = work.peer("bfloat16")
    peer.record(prompts, sizes.new_tokens, peer_folder)
    tokens, _ = peer.generate(prompts, sizes.new_tokens)
    replayed = work.replay("bfloat16", recordings, "--mode", "inject")
    base, ours, peer_base, theirs = alternate(
        work.repeats,
        lambda: seconds_per_step(work.run("generate", *options)),
        lambda: seconds_per_step(work.run(*replayed)),
        lambda: peer.generate(prompts, sizes.new_tokens)[1],
        lambda: peer.replay(prompts, tokens, peer_folder),
    )
    return [
        cost(
            "replay step by step, inject, batch 1",
            _per_token("replay", ours),
            _per_token("generate", base),
            Target(maximum=1.10),
        ),
        cost(
            "the same in Python, batch 1",
            _per_token("torch.load + cat", theirs),
            _per_token("transformers", peer_base),
            None,
        ),
    ]


def parallel(work: Workspace) -> list[Line]:
    """Generating takes one input at a time, in batches of 1, and as long a token for few inputs
    as for many; so it is measured on some of those that are replayed."""
    work.require("replay", "--parallel")
    sizes = work.sizes
    prompts = work.prompts(sizes.parallel_inputs, sizes.prompt_tokens)
    options = work.generation("bfloat16", prompts, sizes.parallel_tokens, batch=1)
    recordings = work.fresh("recordings")
    work.run("save", *options, "--out", recordings)
    replayed = work.replay("bfloat16", recordings, "--mode", "inject", "--parallel")
    some = work.generation(
        "bfloat16", prompts[: sizes.generated_inputs], sizes.parallel_tokens, batch=1
    )
    peer = work.peer("bfloat16")
    base, ours, theirs = alternate(
        min(work.repeats, 3),
        lambda: tokens_per_second(work.run("generate", *some)),
        lambda: tokens_per_second(work.run(*replayed)),
        lambda: 1.0 / peer.generate(prompts[:1], sizes.parallel_tokens)[1],
    )
    measured = Side("replay --parallel", "tokens/s", ours)
    compared = Side("generate", "tokens/s", base)
    line = Line(
        f"parallel replay of {sizes.parallel_inputs} inputs of {sizes.parallel_tokens} tokens",
        measured,
        compared,
        measured.median / compared.median,
        Target(minimum=20.0),
    )
    python = Side("transformers", "tokens/s", theirs)
    beside = Line(
        "the same against generating in Python", measured, python, measured.median / python.median
    )
    return [line.judge(), beside]


def context(work: Workspace) -> list[Line]:
    """What a step costs at two lengths; with attention apart where kvtool says it."""
    sizes = work.sizes
    lengths = (sizes.short_context, sizes.long_context)
    found: dict[tuple[int, str], list[float]] = {}

    def run(length: int) -> None:
        options = work.generation("bfloat16", work.prompts(1, length), sizes.context_steps + 1)
        result = work.run("generate", *options)["results"][0]
        parts = {"whole step": result["decode_seconds"]}
        if result.get("attention_seconds") is not None:
            parts["attention"] = result["attention_seconds"]
            parts["all but attention"] = result["decode_seconds"] - result["attention_seconds"]
        for part, seconds in parts.items():
            found.setdefault((length, part), []).append(seconds / result["steps"])

    for _ in range(work.repeats):
        for length in lengths:
            run(length)
    lines = []
    for part in ("whole step", "attention", "all but attention"):
        if (lengths[0], part) not in found:
            lines.append(
                Line(
                    f"step at {lengths[1]} positions, {part}",
                    status="not available",
                    note="kvtool generate does not report attention_seconds",
                )
            )
            continue
        short, long = (
            Side(f"{length} positions", "ms", [value * 1e3 for value in found[length, part]])
            for length in lengths
        )
        title = f"step at {lengths[1]} positions, {part}"
        lines.append(cost(title, long, short, None))
    return lines


def memory(work: Workspace) -> list[Line]:
    """Peak memory of a replay against what it cannot do without."""
    sizes = work.sizes
    lines = []
    one_token = work.generation("bfloat16", work.prompts(1, 1), 1)
    for rows in (1, sizes.batch):
        prompts = work.prompts(rows, sizes.prompt_tokens)
        options = work.generation("bfloat16", prompts, sizes.batch_tokens)
        recordings = work.fresh("recordings")
        work.run("save", *options, "--out", recordings)
        some = next(recordings.rglob("*.kvc"))
        kv_bytes = rows * work.bench(some, "open")["kv_bytes"]
        base, peak = alternate(
            1 if work.quick else 3,
            lambda: work.launch("generate", *one_token).peak_bytes,
            lambda: work.launch(*work.replay("bfloat16", recordings)).peak_bytes,
        )
        measured, model = (
            Side(label, "MB", [value / 1e6 for value in values])
            for label, values in (("replay", peak), ("model alone", base))
        )
        line = Line(
            f"memory beyond the model and K/V of a replay, batch {rows}",
            measured,
            model,
            measured.median - model.median - kv_bytes / 1e6,
            Target(maximum=64.0),
            note=f"MB; K/V {kv_bytes / 1e6:.1f} MB",
        )
        lines.append(line.judge())
    return lines


# Generates with llama.cpp and writes its whole state after every step, which is what it has
# for saving a cache.
_LLAMA = """
import ctypes, json, sys, time
import llama_cpp, numpy

path, ids, new_tokens, threads, target = json.loads(sys.argv[1])
model = llama_cpp.Llama(path, n_ctx=len(ids) + new_tokens, n_threads=threads,
                        n_threads_batch=threads, verbose=False)

def next_token():
    logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(numpy.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())

def write_state(buffer):
    size = llama_cpp.llama_state_get_size(model.ctx)
    if len(buffer) < size:
        buffer = (ctypes.c_uint8 * (2 * size))()
    written = llama_cpp.llama_state_get_data(model.ctx, buffer, size)
    with open(target, "wb") as file:
        file.write(memoryview(buffer)[:written])
    return buffer

def run(save):
    model.reset()
    model.eval(ids)
    buffer = (ctypes.c_uint8 * 1)()
    start = time.perf_counter()
    for _ in range(new_tokens - 1):
        model.eval([next_token()])
        if save:
            buffer = write_state(buffer)
    return (time.perf_counter() - start) / (new_tokens - 1)

run(False)
print(json.dumps([run(False), run(True), llama_cpp.__version__]))
"""


def llama_cpp(work: Workspace) -> list[Line]:
    python = str(work.llama_python or sys.executable)
    if work.quick:
        raise NotAvailable("there is no GGUF file of the tiny model")
    if subprocess.run([python, "-c", "import llama_cpp"], capture_output=True).returncode != 0:
        raise NotAvailable(f"llama_cpp is not installed in {python}")
    sizes = work.sizes
    prompts = work.prompts(1, sizes.prompt_tokens)
    options = work.generation("bfloat16", prompts, sizes.new_tokens)
    request = [_gguf(), prompts[0], sizes.new_tokens, work.threads, str(work.scratch / "state")]
    versions = set()

    def llama() -> list[float]:
        command = [python, "-c", _LLAMA, json.dumps(request)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise NotMeasured(f"llama.cpp: {done.stderr[-400:]}")
        plain, saving, version = json.loads(done.stdout.splitlines()[-1])
        versions.add(version)
        return [plain, saving]

    pairs, base, ours = alternate(
        work.repeats,
        llama,
        lambda: seconds_per_step(work.run("generate", *options)),
        lambda: seconds_per_step(work.run("save", *options, "--out", work.fresh("saved"))),
    )
    plain, saving = zip(*pairs)
    note = f"llama-cpp-python {', '.join(sorted(versions))}, weights of the GGUF file"
    return [
        cost("save beside llama.cpp", _per_token("save", ours), _per_token("generate", base), None),
        cost(
            "llama.cpp: state after every step",
            _per_token("with state", list(saving)),
            _per_token("without", list(plain)),
            None,
            note=note,
        ),
    ]


def _gguf() -> str:
    files = importlib.metadata.files(GGUF_PACKAGE) or []
    (path,) = (Path(str(file.locate())) for file in files if str(file).endswith(".gguf"))
    return str(path)
