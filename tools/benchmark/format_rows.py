"""Rows that need no model: what a recording costs to read and to keep."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
from pathlib import Path

from .model_rows import alternate
from .peer import rebuild_seconds_per_step
from .results import Line, NotAvailable, Side, Target, absolute, speedup
from .workspace import Workspace


def rebuild(work: Workspace) -> list[Line]:
    """The cache at every step of a recording."""
    recording = work.long_recording
    info = _info(work, recording)
    shapes = {
        "layers": info["kv"]["layers"],
        "heads": int(info["kv"]["heads"]),
        "dim": int(info["kv"]["key_dim"]),
        "dtype": info["kv"]["dtype"],
    }
    peer_folder = work.fresh("rebuild")

    def kvtool() -> float:
        figures = work.bench(recording, "rebuild", repeats=1)["figures"]
        return figures["rebuild the cache, per step"]["median"] / 1e3

    def python() -> float:
        seconds = rebuild_seconds_per_step(
            shapes, info["prompt_tokens"], info["steps"], peer_folder
        )
        return seconds * 1e3

    ours, theirs = alternate(work.repeats, kvtool, python)
    return [
        speedup(
            f"rebuild the cache at every of {info['steps']} steps",
            Side("kvtool bench", "ms/step", ours),
            Side("torch.load + cat", "ms/step", theirs),
            Target(minimum=10.0),
        )
    ]


def size(work: Workspace) -> list[Line]:
    measured = work.bench(work.long_recording, "open")
    ratio = Side("file / K/V", "", [measured["bytes"] / measured["kv_bytes"]])
    lines = [absolute("size of a recording", ratio, Target(maximum=1.03))]
    try:
        return lines + _packed(work, measured["kv_bytes"])
    except NotAvailable as reason:
        return [*lines, Line("size and speed of packing", status="not available", note=str(reason))]


def _packed(work: Workspace, kv_bytes: int) -> list[Line]:
    work.require("pack")
    work.require("unpack")
    packed = work.scratch / "packed.kvc"
    packed.unlink(missing_ok=True)
    work.launch("pack", work.long_recording, "-o", packed)
    ratio = Side("packed / K/V", "", [packed.stat().st_size / kv_bytes])

    # Real K/V again and again, until it is large enough to be timed.
    large, small, again = (work.scratch / f"{name}.kvc" for name in ("large", "small", "again"))
    large.unlink(missing_ok=True)
    work.run(
        "bench", "--make", large, "--like", work.long_recording, "--bytes", work.sizes.packed_bytes
    )
    raw_bytes = large.stat().st_size
    work.bench(large, "verify")  # warm

    def rate(*command, target: Path) -> float:
        target.unlink(missing_ok=True)
        return raw_bytes / work.launch(*command, "-o", target, "--threads", 1).seconds / 1e6

    pack, unpack = alternate(
        work.repeats,
        lambda: rate("pack", large, target=small),
        lambda: rate("unpack", small, target=again),
    )
    same = large.read_bytes() == again.read_bytes()
    for path in (large, small, again):
        path.unlink()
    note = "one thread; unpacked bytes equal" if same else "one thread; BYTES DIFFER"
    return [
        absolute("size when packed, bfloat16", ratio, Target(maximum=0.70)),
        absolute("pack", Side("of raw bytes", "MB/s", pack), Target(minimum=400.0), note),
        absolute("unpack", Side("of raw bytes", "MB/s", unpack), Target(minimum=1000.0), note),
    ]


def info(work: Workspace) -> list[Line]:
    """A recording of 10 GB: what it is, and any step of it."""
    size_bytes = work.sizes.large_bytes
    free = shutil.disk_usage(work.folder).free
    if free < size_bytes * 1.2:
        raise NotAvailable(
            f"{free / 1e9:.0f} GB of disk space are free, a recording of "
            f"{size_bytes / 1e9:.0f} GB is needed"
        )
    recording = work.scratch / "large.kvc"
    recording.unlink(missing_ok=True)
    try:
        work.run("bench", "--make", recording, "--bytes", size_bytes)
        work.launch("info", recording)  # warm
        runs = [work.launch("info", recording) for _ in range(max(work.repeats, 5))]
        reads = work.bench(recording, "random")["figures"]
    finally:
        recording.unlink(missing_ok=True)
    name = f"{size_bytes / 1e9:.3g} GB"
    median, p99 = (reads[f"read any step, {kind}"]["values"] for kind in ("median", "p99"))
    return [
        absolute(
            f"info on {name}",
            Side("wall time", "ms", [run.seconds * 1e3 for run in runs]),
            Target(maximum=10.0),
        ),
        absolute(
            f"info on {name}, peak memory",
            Side("peak", "MB", [run.peak_bytes / 1e6 for run in runs]),
            Target(maximum=20.0),
        ),
        absolute(
            f"read any step of {name}, warm",
            Side("median of 1000", "ms", [value / 1e3 for value in median]),
            Target(maximum=1.0),
            note=f"p99 {statistics.median(p99) / 1e3:.3g} ms",
        ),
    ]


def _info(work: Workspace, recording: Path) -> dict:
    done = subprocess.run(
        [str(work.binary), "info", str(recording), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)["recordings"][0]
