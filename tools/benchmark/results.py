"""What a row measured, and how it is judged and shown."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field

PASS, FAIL, INFO = "PASS", "FAIL", "-"
NOT_AVAILABLE, NOT_MEASURED = "not available", "not measured"


class NotAvailable(Exception):
    """This build or machine lacks what the row measures; that is no error."""


class NotMeasured(Exception):
    """Something failed that should have worked."""


@dataclass
class Side:
    """One value for each repeat."""

    label: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self) -> str:
        if len(self.values) == 1:
            return f"{number(self.median)} {self.unit}"
        low, high = number(min(self.values)), number(max(self.values))
        return f"{number(self.median)} {self.unit} ({low} to {high})"


@dataclass
class Target:
    """A bound on the figure that a line is judged by."""

    minimum: float | None = None
    maximum: float | None = None

    def holds(self, figure: float) -> bool:
        above = self.minimum is None or figure >= self.minimum
        return above and (self.maximum is None or figure <= self.maximum)

    def text(self) -> str:
        if self.minimum is not None:
            return f">= {number(self.minimum)}"
        return f"<= {number(self.maximum)}"


@dataclass
class Line:
    """One line of the table. The figure is what the target is about: the ratio of two
    medians, or the median itself."""

    title: str
    measured: Side | None = None
    compared: Side | None = None
    figure: float | None = None
    target: Target | None = None
    status: str = INFO
    note: str = ""
    row: str = ""

    def judge(self) -> Line:
        if self.target is not None and self.figure is not None:
            self.status = PASS if self.target.holds(self.figure) else FAIL
        return self


def absolute(title: str, measured: Side, target: Target | None, note: str = "") -> Line:
    return Line(title, measured, None, measured.median, target, note=note).judge()


def speedup(title: str, measured: Side, slower: Side, target: Target | None, note="") -> Line:
    """How many times as long the other side takes."""
    ratio = slower.median / measured.median
    return Line(title, measured, slower, ratio, target, note=note).judge()


def cost(title: str, measured: Side, base: Side, target: Target | None, note="") -> Line:
    """How many times as long as the other side this takes."""
    ratio = measured.median / base.median
    return Line(title, measured, base, ratio, target, note=note).judge()


def number(value: float) -> str:
    """Three significant digits or whole numbers, without exponents."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.2g}"


@dataclass
class Report:
    machine: dict
    settings: dict
    lines: list[Line] = field(default_factory=list)

    def add(self, row: str, lines: list[Line]) -> None:
        for line in lines:
            line.row = row
        self.lines.extend(lines)

    def has(self, status: str) -> bool:
        return any(line.status == status for line in self.lines)

    def as_json(self) -> dict:
        lines = []
        for line in self.lines:
            entry = asdict(line)
            for side in ("measured", "compared"):
                if entry[side]:
                    entry[side]["median"] = getattr(line, side).median
            lines.append(entry)
        return {"machine": self.machine, "settings": self.settings, "lines": lines}

    def text(self) -> str:
        return _aligned(["row", *_COLUMNS], [[line.row, *_cells(line)] for line in self.lines])

    def markdown(self) -> str:
        parts = ["| machine | |", "| --- | --- |"]
        parts += [f"| {name} | {value} |" for name, value in self.machine.items()]
        parts += ["", "| " + " | ".join(_COLUMNS) + " |"]
        parts += ["| --- | --- | --- | ---: | ---: | --- |"]
        parts += ["| " + " | ".join(_cells(line)) + " |" for line in self.lines]
        return "\n".join(parts) + "\n"


_COLUMNS = ["what", "kvtool", "compared with", "figure", "target", "result"]


def _cells(line: Line) -> list[str]:
    def side(value: Side | None) -> str:
        return f"{value.label}: {value.text()}" if value else ""

    return [
        line.title,
        side(line.measured),
        side(line.compared),
        number(line.figure) if line.figure is not None else "",
        line.target.text() if line.target else "",
        line.status + (f" ({line.note})" if line.note else ""),
    ]


def _aligned(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() + "\n"
        for row in [header, ["-" * width for width in widths], *rows]
    )
