"""docs/fidelity.md: false alarms and power side by side, then the estimates beside the truth."""

from __future__ import annotations

import platform
from collections.abc import Sequence

import torch
import transformers

from fidelity.cells import DIFFERENCES, Cell, Power
from fidelity.models import MODELS
from fidelity.truth import Truth

BEGIN = "<!-- tools/fidelity.py writes from here -->"
END = "<!-- to here -->"


def rendered(cells: Sequence[Cell], powers: Sequence[Power], truths: dict[str, Truth]) -> str:
    order = {model.name: place for place, model in enumerate(MODELS)}
    cells = sorted(cells, key=lambda cell: order[cell.model])
    powers = sorted(powers, key=lambda power: order[power.model])
    names = {cell.model for cell in cells}
    parts = [_setting(), _models(names), _healthy(cells), _power(powers)]
    if truths:
        parts.append(_truth({name: truths[name] for name in sorted(truths, key=order.get)}))
    return "\n\n".join(parts)


def replaced(document: str, text: str) -> str:
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def _setting() -> str:
    with open("/proc/cpuinfo") as cpuinfo:
        names = [line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")]
    name = names[0] if names else platform.machine()
    versions = f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}"
    return f"Seen on {name}, {len(names)} threads, {versions}."


def _models(names: set[str]) -> str:
    lines = ["| model | what it is | gate |", "| --- | --- | --- |"]
    lines += [
        f"| {model.name} | {model.about} | `{model.gate}` |"
        for model in MODELS
        if model.name in names
    ]
    missing = [model.name for model in MODELS if model.name not in names]
    if missing:
        lines += ["", f"Not measured here: {', '.join(missing)}."]
    return "\n".join(lines)


def _healthy(cells: Sequence[Cell]) -> str:
    of = {difference.name: difference.about for difference in DIFFERENCES}
    lines = [
        "| model | difference | steps | flips | expected | p | hard | noise / spread "
        "| KL estimate | lower bound | gate | faults caught |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for cell in cells:
        f = {name.removeprefix("inject."): value for name, value in cell.figures.items()}
        flips = f["tokens.compared"] - f["tokens.matches"]
        lines.append(
            f"| {cell.model} | {of[cell.difference]} | {f['tokens.compared']:.0f} | {flips:.0f} "
            f"| {f['tokens.flips_expected']:.1f} ± {f['tokens.flips_deviation']:.1f} "
            f"| {f['tokens.flips_p']:.2g} | {f['tokens.hard_flips']:.0f} "
            f"| {f['logits.relative_noise']:.2g} | {f['kl_estimate.mean']:.2e} "
            f"| {f['kl.mean']:.2e} | {_gate(cell)} | {_caught(cell)} |"
        )
    return "\n".join(lines)


def _gate(cell: Cell) -> str:
    if cell.passed and not cell.failures:
        return "PASS"
    return "**FAIL**: " + ", ".join(f"`{figure}`" for figure in cell.failures)


def _caught(cell: Cell) -> str:
    if cell.caught is None:
        return "–"
    missed = f", not {', '.join(cell.missed)}" if cell.missed else ""
    return f"{cell.caught} of {cell.faults}{missed}"


def _power(powers: Sequence[Power]) -> str:
    names = sorted({name for power in powers for name in power.smallest})
    names = [name for name in names if any(power.smallest.get(name) for power in powers)]
    lines = ["| smallest strength caught | " + " | ".join(names) + " |"]
    lines.append("| --- |" + " ---: |" * len(names))
    for power in powers:
        found = [power.smallest.get(name) for name in names]
        shown = ["–" if strength is None else f"{strength:.2g}" for strength in found]
        lines.append(f"| {power.model} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _truth(truths: dict[str, Truth]) -> str:
    lines = [
        "| model | steps | true KL | estimate | lower bound | flips | expected |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, truth in truths.items():
        lines.append(
            f"| {name} | {truth.steps} | {truth.true_kl:.3e} "
            f"| {truth.estimated_kl:.3e} ± {truth.standard_error:.0e} | {truth.lower_bound:.3e} "
            f"| {truth.observed_flips} | {truth.expected_flips:.1f} ± {truth.deviation:.1f} |"
        )
    return "\n".join(lines)
