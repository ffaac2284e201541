#!/usr/bin/env python3
"""Exports a tiny random model of every causal language model type of transformers.

    tools/model_sweep.py                  # all, and the table of docs/models.md
    tools/model_sweep.py --check          # all; does the table say the same?
    tools/model_sweep.py --types llama,bart --models build/tiny

Each type gets a process of its own with limits of time and memory. Results are kept in a file
(--results); --resume takes those that are there. A type whose tiny model cannot be made or does
not run in transformers itself says nothing about the exporter, and the table says so.
Exit status: 0; 1 when --check finds another table; 2 for wrong options.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "python"), str(REPOSITORY / "tools")]

from sweep import table, trial  # noqa: E402

DOCUMENT = REPOSITORY / "docs" / "models.md"


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.types and options.check:
        print("model_sweep: error: the table needs all types; leave --types out", file=sys.stderr)
        return 2
    types = options.types or trial.all_types()
    unknown = sorted(set(types) - set(trial.all_types()))
    if unknown:
        print(f"model_sweep: error: no causal language model type: {', '.join(unknown)}",
              file=sys.stderr)
        return 2
    results = sweep(types, options)
    text = table.rendered([results[name] for name in types])
    if options.types:
        print("\n".join(table.line(results[name]) for name in types))
        return 0
    if options.check:
        difference = table.difference(DOCUMENT.read_text(), text)
        print(difference or f"{DOCUMENT}: the table says what was found", end="\n")
        return 1 if difference else 0
    DOCUMENT.write_text(table.replaced(DOCUMENT.read_text(), text))
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare with the table of docs/models.md, write nothing",
    )
    parser.add_argument(
        "--types", type=lambda text: text.split(","), metavar="A,B", help="only these; no table"
    )
    parser.add_argument(
        "--resume", action="store_true", help="take results that --results holds already"
    )
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "build" / "model_sweep.json", metavar="FILE"
    )
    parser.add_argument(
        "--models", type=Path, metavar="DIR", help="keep the tiny models in this folder"
    )
    parser.add_argument("--seconds", type=int, default=180, help="limit of a type (default 180)")
    parser.add_argument(
        "--memory-gb", type=float, default=4, help="limit of a type's memory (default 4)"
    )
    return parser.parse_args(argv)


def sweep(types: list[str], options: argparse.Namespace) -> dict[str, trial.Result]:
    """The result of each type, by name; written to --results after each."""
    known = table.versions()
    results = {}
    if options.resume and options.results.is_file():
        kept = json.loads(options.results.read_text())
        if kept["versions"] == known:
            results = {name: trial.Result(**found) for name, found in kept["results"].items()}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    limits = trial.Limits(options.seconds, int(options.memory_gb * 2**30))
    with tempfile.TemporaryDirectory(prefix="kvtool-sweep-") as scratch:
        for number, name in enumerate(types, 1):
            if name not in results:
                folder = (options.models or Path(scratch)) / name
                results[name] = trial.run(name, folder, Path(scratch), limits)
                print(f"{number}/{len(types)} {table.line(results[name])}", file=sys.stderr)
                kept = {"versions": known, "results": {k: vars(v) for k, v in results.items()}}
                options.results.write_text(json.dumps(kept, indent=1))
    return results


if __name__ == "__main__":
    raise SystemExit(main())
