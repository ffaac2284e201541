#!/usr/bin/env python3
"""Measures kvtool against the loops that people write in Python today, and against its own
targets. Both sides of a comparison run in the same invocation, one after the other in every
repeat; the table shows median, range and ratio. docs/performance.md says what each row is.

    tools/bench.py --json build/bench.json --markdown build/bench.md

Run it alone on the machine: what else runs is in the numbers. A full run takes about a
quarter of an hour and 11 GB of disk space. The exit status is 0 when everything was
measured that this build and machine can measure.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "python"), str(REPOSITORY / "tools")]

import torch  # noqa: E402
from benchmark import machine  # noqa: E402
from benchmark.results import (  # noqa: E402
    FAIL,
    NOT_AVAILABLE,
    NOT_MEASURED,
    Line,
    NotAvailable,
    Report,
)
from benchmark.rows import ROWS, Row  # noqa: E402
from benchmark.workspace import Workspace  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.list:
        print("".join(f"{row.name:<12}  {row.about}\n" for row in ROWS), end="")
        return 0
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    settings = {"repeats": options.repeats, "threads": options.threads, "quick": options.quick}
    report = Report(machine.describe(options.work, options.threads, options.quick), settings)
    work = Workspace(
        options.kvtool.resolve(),
        options.work.resolve(),
        options.threads,
        options.repeats,
        options.quick,
        options.llama_python,
        options.baseline.resolve() if options.baseline else None,
    )
    try:
        for row in chosen(options.only):
            report.add(row.name, measure(row, work))
    finally:
        work.close()
    publish(report, options)
    missed = options.check and report.has(FAIL)
    return 1 if missed or report.has(NOT_MEASURED) else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", metavar="NAME,...", default="", help="rows to measure (default: all)")
    add("--list", action="store_true", help="show the rows and stop")
    add("--repeats", type=int, metavar="N", help="repeats of every measurement (default: 5)")
    add("--threads", type=int, metavar="N", help="of both sides (default: 2, 1 with --quick)")
    add(
        "--kvtool",
        type=Path,
        default=REPOSITORY / "build" / "kvtool",
        metavar="FILE",
        help="the binary (default: build/kvtool)",
    )
    add(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="another binary, of an earlier commit, for the row baseline",
    )
    add(
        "--work",
        type=Path,
        default=REPOSITORY / "build" / "bench",
        metavar="DIR",
        help="where exported models are kept and large files lie for a while",
    )
    add(
        "--llama-python",
        type=Path,
        metavar="FILE",
        help="a Python that has llama_cpp, for the row llama-cpp",
    )
    add("--json", type=Path, metavar="FILE", help="write all values")
    add("--markdown", type=Path, metavar="FILE", help="write machine and table for a page")
    add("--check", action="store_true", help="exit status 1 when a target is missed")
    add(
        "--quick",
        action="store_true",
        help="a tiny model, few tokens and one repeat: shows that it runs, not how fast",
    )
    options = parser.parse_args(argv)
    if options.repeats is None:
        options.repeats = 1 if options.quick else 5
    # A tiny model's threads only get in each other's way.
    if options.threads is None:
        options.threads = 1 if options.quick else 2
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads are at least 1")
    unknown = set(filter(None, options.only.split(","))) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"--only: no row {', '.join(sorted(unknown))}; see --list")
    if not options.list and not options.kvtool.is_file():
        parser.error(
            f"{options.kvtool} is missing: build it (bash tools/demo.sh), or --kvtool FILE"
        )
    if options.baseline and not options.baseline.is_file():
        parser.error(f"--baseline: there is no file {options.baseline}")
    for target in (options.json, options.markdown):
        if target and not target.resolve().parent.is_dir():
            parser.error(f"the folder of {target} does not exist")
    return options


def chosen(only: str) -> list[Row]:
    names = set(filter(None, only.split(",")))
    return [row for row in ROWS if not names or row.name in names]


def measure(row: Row, work: Workspace) -> list[Line]:
    """One row that cannot be measured must not cost the others."""
    start = time.monotonic()
    try:
        lines = row.measure(work)
    except NotAvailable as reason:
        lines = [Line(row.about, status=NOT_AVAILABLE, note=str(reason))]
    except Exception as error:  # noqa: BLE001
        lines = [Line(row.about, status=NOT_MEASURED, note=f"{type(error).__name__}: {error}")]
    print(f"{row.name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    return lines


def publish(report: Report, options: argparse.Namespace) -> None:
    for name, value in report.machine.items():
        print(f"{name + ':':<24}{value}")
    print()
    print(report.text(), end="")
    if options.quick:
        print("\n--quick: these are no measurements of speed.")
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(report.markdown())


if __name__ == "__main__":
    # Large files must not stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise SystemExit(main())
