"""What residency is worth to a paged cache whose steps choose their pages."""

from __future__ import annotations

from .model_rows import MS_PER_TOKEN, alternate
from .results import Line, Side, cost
from .workspace import REPOSITORY, Workspace, seconds_per_step

# Text as it is, since what steps choose of random tokens says nothing: pages of this tree.
TEXT = ("architecture", "format", "metrics")
# In all layers, since one that sees everything fetches what is not there whoever decides.
SELECT = "select=quest,budget=25%,dense=0"
PAGED = "paged:page={page},device={room}%,link={link},residency={name}," + SELECT
ROOMS = (40, 60)  # percent of the pages; the heads of a layer choose about half of them together
RESIDENCIES = (
    "lru",
    "lru2",
    "predictive,rank=mass",
    "predictive,rank=frequency",
    "predictive",
)
LINK = 1  # GB/s


def paging(work: Workspace) -> list[Line]:
    return [line for room in ROOMS for line in _with_room(work, room)]


def _with_room(work: Workspace, room: int) -> list[Line]:
    length, steps = work.sizes.paged_context, work.sizes.paged_steps
    text = work.scratch / "text.txt"
    text.write_text("".join((REPOSITORY / "docs" / f"{name}.md").read_text() for name in TEXT))
    options = [
        *("--model", str(work.model("bfloat16")), "--text", str(text), "--context", str(length)),
        *("--max-new-tokens", str(steps + 1), "--ignore-eos", "--device", "cpu"),
        *("--threads", str(work.threads)),
    ]

    def step(residency: str) -> tuple[float, dict]:
        # Short inputs of a quick run have few pages.
        page = 16 if length >= 1024 else 2
        spec = PAGED.format(page=page, room=room, link=LINK, name=residency)
        report = work.run("generate", *options, "--kv-cache", spec)
        (used,) = report["summary"]["caches"]
        return 1e3 * seconds_per_step(report), used

    runs = alternate(work.repeats, *(lambda chosen=name: step(chosen) for name in RESIDENCIES))
    sides = [
        Side(name, MS_PER_TOKEN, [milliseconds for milliseconds, _ in found])
        for name, found in zip(RESIDENCIES, runs)
    ]
    title = f"a step over {length} positions, room for {room} % of the pages, {LINK} GB/s"
    return [
        cost(f"{title}, {side.label}", side, sides[0], None, note=_traffic(found[0][1], steps))
        for side, found in zip(sides, runs)
    ]


def _traffic(used: dict, steps: int) -> str:
    """Pages do not depend on the repeat."""
    needed, ahead = used["read_back"] / steps, used["prefetched"] / steps
    text = f"pages a step: {needed:.1f} fetched when needed"
    if ahead:
        hits = 100 * used["prefetch_hits"] / used["prefetched"]
        text += f", {ahead:.1f} ahead, {hits:.0f} % of them used"
    return text
