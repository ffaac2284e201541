#!/usr/bin/env python3
"""Shows that kvtool's verdicts hold: replays of healthy models with other kernels pass, faults do
not, and the estimates are what all logits say. Writes the tables of docs/fidelity.md.

    tools/fidelity.py                         # all: an hour and a half, 20 GB of disk space
    tools/fidelity.py --models flat-bf16      # one model; prints the tables
    tools/fidelity.py --check                 # the exit status says whether a cell fails
    tools/fidelity.py --page                  # the tables of what was measured, nothing run

Results are kept in the work folder after each replay and each selftest; --resume takes those that
are there and measures what is missing, of a cell without faults the faults alone. The exit status
is 1 when a healthy cell fails its gate or a fault is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "python"), str(REPOSITORY / "tools")]

from fidelity import cells, models, page, truth  # noqa: E402

DOCUMENT = REPOSITORY / "docs" / "fidelity.md"


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    results = Results(options.work / "results.json", options.resume or options.page)
    laboratory = cells.Laboratory(
        options.kvtool.resolve(), options.work.resolve(), options.inputs, options.tokens
    )
    for model in [] if options.page else options.models:
        measure(model, laboratory, results, options)
    text = page.rendered(results.cells(), results.powers(), results.truths())
    if len(options.models) == len(models.MODELS) and not options.check:
        DOCUMENT.write_text(page.replaced(DOCUMENT.read_text(), text))
    else:
        print(text)
    wrong = [cell for cell in results.cells() if cell.failures or cell.missed or not cell.passed]
    return 1 if wrong else 0


def measure(model, laboratory, results, options) -> None:
    for difference in cells.DIFFERENCES:
        name = f"cell {model.name} {difference.name}"
        results.once(name, lambda d=difference: laboratory.replay(model, d))
        cell = results.cell(name)
        if cell.caught is None:
            results.keep(name, laboratory.with_faults(cell, model, difference))
    if not options.quick:
        results.once(f"power {model.name}", lambda: laboratory.power(model))
        results.once(
            f"truth {model.name}",
            lambda: truth.measure(model, options.work.resolve(), cells.BATCH, options.tokens),
        )


class Results:
    """By name, as JSON; kept after each."""

    def __init__(self, path: Path, resume: bool):
        self._path = path
        self._found = json.loads(path.read_text()) if resume and path.is_file() else {}
        path.parent.mkdir(parents=True, exist_ok=True)

    def once(self, name: str, compute) -> None:
        if name not in self._found:
            self.keep(name, compute())

    def keep(self, name: str, result) -> None:
        self._found[name] = dataclasses.asdict(result)
        self._path.write_text(json.dumps(self._found, indent=1))

    def cell(self, name: str) -> cells.Cell:
        return cells.Cell(**self._found[name])

    def cells(self) -> list[cells.Cell]:
        return [cells.Cell(**found) for found in self._of("cell ").values()]

    def powers(self) -> list[cells.Power]:
        return [cells.Power(**found) for found in self._of("power ").values()]

    def truths(self) -> dict[str, truth.Truth]:
        return {name: truth.Truth(**found) for name, found in self._of("truth ").items()}

    def _of(self, kind: str) -> dict[str, dict]:
        return {name.removeprefix(kind): found for name, found in self._found.items()
                if name.startswith(kind)}  # fmt: skip


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", type=chosen, default=list(models.MODELS), metavar="NAME,...",
        help="only these: " + ", ".join(model.name for model in models.MODELS))  # fmt: skip
    add("--inputs", type=int, default=16, metavar="N", help="inputs of a cell (default 16)")
    add("--tokens", type=int, default=128, metavar="N", help="tokens of each (default 128)")
    add("--quick", action="store_true", help="neither smallest strengths nor the truth")
    add("--check", action="store_true", help="print the tables, write nothing")
    add("--resume", action="store_true", help="take results that are in the work folder")
    add("--page", action="store_true", help="write the page of what the work folder has")
    add("--work", type=Path, default=REPOSITORY / "build" / "fidelity", metavar="DIR")
    add("--kvtool", type=Path, default=REPOSITORY / "build" / "kvtool", metavar="FILE")
    return parser.parse_args(argv)


def chosen(names: str) -> list[models.Model]:
    known = {model.name: model for model in models.MODELS}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"no model {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


if __name__ == "__main__":
    sys.exit(main())
