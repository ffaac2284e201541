"""Rows that run another binary of kvtool beside this one: what a change costs."""

from __future__ import annotations

from .model_rows import MS_PER_TOKEN, alternate
from .results import Line, NotAvailable, Side, Target, cost
from .workspace import Workspace, tokens_per_second

# Two builds of the same source differ by this much on a machine that is otherwise idle.
_NO_SLOWER = Target(maximum=1.03)


def baseline(work: Workspace) -> list[Line]:
    """Saving, replaying step by step and replaying all steps in one pass. Both binaries read
    the recordings of the other one, the older, so that the files are the same."""
    if work.baseline is None:
        raise NotAvailable("needs --baseline FILE, the binary to compare with")
    sizes = work.sizes
    prompts = work.prompts(sizes.batch, sizes.prompt_tokens)
    lines = []
    for rows in (1, sizes.batch):
        options = work.generation("float32", prompts, sizes.batch_tokens, batch=rows)
        recordings = work.fresh(f"recordings_{rows}")
        work.run("save", *options, "--out", recordings, binary=work.baseline)
        step_by_step = work.replay("float32", recordings, "--mode", "inject")
        for title, command in (
            ("save", ["save", *options]),
            ("replay step by step, inject", step_by_step),
            ("parallel replay", [*step_by_step, "--parallel"]),
        ):
            lines.append(_compare(work, f"{title}, batch {rows}", command))
    return lines


def _compare(work: Workspace, title: str, command: list[str]) -> Line:
    def seconds_per_token(binary: Path) -> float:
        out = ["--out", work.fresh("saved")] if command[0] == "save" else []
        return 1.0 / tokens_per_second(work.run(*command, *out, binary=binary))

    before, now = alternate(
        work.repeats,
        lambda: seconds_per_token(work.baseline),
        lambda: seconds_per_token(work.binary),
    )
    sides = [
        Side(label, MS_PER_TOKEN, [value * 1e3 for value in values])
        for label, values in (("now", now), ("before", before))
    ]
    # How little the best of each differ says whether a difference of medians is noise.
    best = f"{min(now) / min(before):.3f} of the best"
    return cost(title, *sides, _NO_SLOWER, note=best)
