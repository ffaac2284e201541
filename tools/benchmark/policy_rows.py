"""What a cache policy costs a step, against the plain cache."""

from __future__ import annotations

from dataclasses import dataclass

from .model_rows import MS_PER_TOKEN, alternate
from .results import Line, Side, Target, cost
from .workspace import Workspace, seconds_per_step


@dataclass(frozen=True)
class Policy:
    """A spec that is measured; `{part}` is an eighth of the positions, `{page}` a 256th."""

    spec: str
    maximum: float | None = None  # of its step, in steps of the plain cache


# At Sizes.policy_context positions. Paged with room for everything: what its bookkeeping costs.
POLICIES = (
    Policy("int8", 1.5),
    Policy("fp8"),
    Policy("kivi:residual={part}", 1.5),
    Policy("kivi:k=2,v=2,residual={part}", 1.5),
    Policy("paged", 1.05),
)
# At Sizes.long_context positions, where a step is mostly attention.
SELECTORS = (Policy("quest:page={page},budget=25%", 1.0),)


def policies(work: Workspace) -> list[Line]:
    sizes = work.sizes
    return [
        *_against_plain(work, POLICIES, sizes.policy_context),
        *_against_plain(work, SELECTORS, sizes.long_context),
    ]


def _against_plain(work: Workspace, chosen: tuple[Policy, ...], length: int) -> list[Line]:
    """All of them alternate with the plain cache, in one invocation."""
    # So small that something is quantized in a quick run, too.
    specs = [policy.spec.format(part=length // 8, page=max(1, length // 256)) for policy in chosen]
    options = work.generation(
        "bfloat16", work.prompts(1, length), work.sizes.context_steps + 1
    )

    def step(spec: str) -> float:
        return 1e3 * seconds_per_step(work.run("generate", *options, "--kv-cache", spec))

    def side(spec: str):
        return lambda: step(spec)

    plain, *found = alternate(work.repeats, *map(side, ["contiguous", *specs]))
    return [
        cost(
            f"a step over {length} positions, {spec}",
            Side(spec.partition(":")[0], MS_PER_TOKEN, times),
            Side("contiguous", MS_PER_TOKEN, plain),
            Target(maximum=policy.maximum) if policy.maximum else None,
        )
        for policy, spec, times in zip(chosen, specs, found)
    ]
