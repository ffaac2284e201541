"""The table of docs/models.md."""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Sequence

import torch
import transformers

from kvtool import __version__
from sweep.trial import EXPORTS, REFUSED, UNTRIED, Result

BEGIN = "<!-- tools/model_sweep.py writes from here -->"
END = "<!-- to here -->"


def versions() -> str:
    torch_version = torch.__version__.split("+")[0]
    return f"kvtool {__version__}, transformers {transformers.__version__}, torch {torch_version}"


def line(result: Result) -> str:
    """One type in one line, with the whole message."""
    return f"{result.type}: {result.outcome}" + (f": {result.message}" if result.message else "")


def rendered(results: Sequence[Result]) -> str:
    """What stands between the markers."""
    of = {kind: [found for found in results if found.outcome == kind]
          for kind in (EXPORTS, REFUSED, UNTRIED)}  # fmt: skip
    names = ", ".join(f"`{found.type}`" for found in of[EXPORTS])
    text = [
        *_filled(
            f"`tools/model_sweep.py`, {versions()}: of {len(results)} types {len(of[EXPORTS])} "
            f"export, {len(of[REFUSED])} are refused."
        ),
        "",
        *_filled(f"Exported: {names}."),
        "",
        "| refused, because | types |",
        "| --- | --- |",
    ]
    text += _rows(of[REFUSED])
    if of[UNTRIED]:
        text += ["", "| not tried, because | types |", "| --- | --- |", *_rows(of[UNTRIED])]
    return "\n".join(text)


def _filled(text: str) -> list[str]:
    return textwrap.wrap(text, 100, break_on_hyphens=False, break_long_words=False)


def _rows(results: Sequence[Result]) -> list[str]:
    """One row per reason, the commonest first."""
    by_reason: dict[str, list[str]] = {}
    for found in results:
        by_reason.setdefault(in_few_words(found.message), []).append(f"`{found.type}`")
    ordered = sorted(by_reason.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return [f"| {reason} | {', '.join(names)} |" for reason, names in ordered]


def in_few_words(message: str) -> str:
    """The reason in the exporter's message without names of classes, layers and files, and
    without what to do about it."""
    words = re.sub(r"^model type '\S+' is not supported: ", "", message)
    words = re.sub(r"^attention layer \d+ \(\w+\): ", "", words)
    words = re.sub(r"^layer \d+ is '(\w+)'", r"a layer is '\1'", words)
    words = re.sub(r"^\S+\.py:\d+ ", "it ", words)
    words = re.sub(r"^\w+(LM|Model|LMHead)\b", "it", words)
    words = re.split(r"; | \(|: ", words)[0]
    return words.replace("|", "\\|")


def replaced(document: str, text: str) -> str:
    """`document` with `text` between the markers."""
    before, _, after = _parts(document)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def difference(document: str, text: str) -> str:
    """What `text` changes between the markers, "" if nothing."""
    _, old, _ = _parts(document)
    lines = difflib.unified_diff(old.strip().splitlines(), text.splitlines(), "docs/models.md",
                                 "found", lineterm="")  # fmt: skip
    return "".join(f"{changed}\n" for changed in lines)


def _parts(document: str) -> tuple[str, str, str]:
    before, found, rest = document.partition(BEGIN)
    old, closed, after = rest.partition(END)
    if not found or not closed:
        raise ValueError(f"docs/models.md lacks the markers {BEGIN} and {END}")
    return before, old, after
