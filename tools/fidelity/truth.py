"""All logits of a model on two kernels, from transformers: what KL and flips really are.

A process for each side, since torch chooses its kernels when it is loaded:

    python -m fidelity.truth MODEL FOLDER CHECKPOINT TARGET [REFERENCE]

writes TARGET.npy, float32 [inputs, tokens, vocabulary], and TARGET.tokens.npy, its greedy
tokens; with REFERENCE the tokens of that run are fed instead, each on the side's own cache."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy

from fidelity import estimators, models

_TOOLS = Path(__file__).resolve().parents[1]
PROMPT_TOKENS = 24
# Of the weaker side: torch's own kernels and those of oneDNN.
_WEAKER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@dataclass(frozen=True)
class Truth:
    steps: int
    true_kl: float
    estimated_kl: float
    standard_error: float
    lower_bound: float
    observed_flips: int
    expected_flips: float
    deviation: float


def measure(model: models.Model, folder: Path, inputs: int, tokens: int) -> Truth:
    """Needs inputs * tokens * vocabulary * 8 bytes of disk while it runs."""
    source = models.checkpoint(model, folder)
    sides = [folder / f"truth_{model.name}_{side}" for side in ("reference", "live")]
    _run(model, source, sides[0], None, inputs, tokens, {})
    _run(model, source, sides[1], sides[0], inputs, tokens, _WEAKER)
    reference, live = (numpy.load(f"{side}.npy", mmap_mode="r") for side in sides)
    steps = [
        estimators.step(reference[i, t], live[i, t], t)
        for i in range(inputs)
        for t in range(1, tokens)
    ]
    for side in sides:
        Path(f"{side}.npy").unlink()
        Path(f"{side}.tokens.npy").unlink()
    chances = numpy.array([step.flip_probability for step in steps])
    errors = numpy.array([step.standard_error for step in steps])
    return Truth(
        steps=len(steps),
        true_kl=float(numpy.mean([step.true_kl for step in steps])),
        estimated_kl=float(numpy.mean([step.estimated_kl for step in steps])),
        standard_error=float(numpy.sqrt((errors**2).sum()) / len(steps)),
        lower_bound=float(numpy.mean([step.lower_bound for step in steps])),
        observed_flips=sum(step.flipped for step in steps),
        expected_flips=float(chances.sum()),
        deviation=float(numpy.sqrt((chances * (1 - chances)).sum())),
    )


def _run(model, source, target, reference, inputs, tokens, environment) -> None:
    command = [sys.executable, "-m", "fidelity.truth", model.name, source, target]
    command += [inputs, tokens] + ([reference] if reference else [])
    paths = {"PYTHONPATH": f"{_TOOLS}:{_TOOLS.parent / 'python'}"}
    subprocess.run([str(part) for part in command], env={**os.environ, **paths, **environment},
                   check=True)


def _logits(model, source: Path, inputs: int, tokens: int, forced):
    import torch
    import transformers

    if model.float32_head:
        from fidelity import float32_head  # noqa: F401  (changes the class)
    dtype = getattr(torch, model.torch_dtype)
    live = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    prompt = [ids[:PROMPT_TOKENS] for ids in models.prompts(model, inputs)]
    logits, chosen = [], []
    with torch.inference_mode():
        output = live(torch.tensor(prompt), use_cache=True, logits_to_keep=1)
        for index in range(tokens):
            last = output.logits[:, -1].float()
            logits.append(last.numpy())
            # The lowest id among the maximal logits.
            own = (last == last.amax(-1, keepdim=True)).int().argmax(-1)
            fed = own if forced is None else torch.from_numpy(forced[:, index].copy())
            chosen.append(fed.numpy())
            output = live(fed[:, None], past_key_values=output.past_key_values, use_cache=True)
    return numpy.stack(logits, 1), numpy.stack(chosen, 1)


def main(name: str, source: str, target: str, inputs: str, tokens: str, *reference: str) -> None:
    model = next(each for each in models.MODELS if each.name == name)
    forced = numpy.load(f"{reference[0]}.tokens.npy") if reference else None
    logits, chosen = _logits(model, Path(source), int(inputs), int(tokens), forced)
    numpy.save(f"{target}.npy", logits)
    numpy.save(f"{target}.tokens.npy", chosen)


if __name__ == "__main__":
    main(*sys.argv[1:])
