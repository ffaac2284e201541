"""What a cache policy costs a step, against the plain cache."""

from __future__ import annotations

from dataclasses import dataclass

from .model_rows import MS_PER_TOKEN, alternate
from .results import Line, Side, Target, cost
from .workspace import Workspace, seconds_per_step


@dataclass(frozen=True)
class Policy:
    """A spec that is measured, by default at Sizes.policy_context positions."""

    spec: str
    maximum: float | None = None  # of its step, in steps of the plain cache


POLICIES = (
    Policy("int8", 1.5),
    Policy("fp8"),
    Policy("kivi:residual={residual}", 1.5),
    Policy("kivi:k=2,v=2,residual={residual}", 1.5),
)


def policies(work: Workspace) -> list[Line]:
    """All of them alternate with the plain cache, in one invocation."""
    sizes = work.sizes
    length = sizes.policy_context
    # Few enough that something is quantized in a quick run, too.
    specs = [policy.spec.format(residual=length // 8) for policy in POLICIES]
    options = work.generation("bfloat16", work.prompts(1, length), sizes.context_steps + 1)

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
        for policy, spec, times in zip(POLICIES, specs, found)
    ]
