"""Checks a traced model against the original one.

The reference is the model itself with its own eager attention, its own eager
experts and transformers' DynamicCache. Both sides get the same tokens: a prefill,
then single decode steps, at several lengths and batch sizes, with left padding and
beyond the shortest attention window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from kvtool.attention_op import AttentionCache
from kvtool.errors import CheckFailedError, UnsupportedModelError, foreign_errors
from kvtool.implementations import implementations
from kvtool.layer_probe import LayerSpec

# Largest relative error of one position's logits, |a - b| / |b - mean(b)| (L2 norms).
# The two sides round at the same points in most families and differ only in the order
# of sums (or in the precision of the softmax: GPT-2, gpt-oss) in the others. Agreeing
# models stay well below these: 1e-6, 3e-3 and 1.5e-2 at most were seen without routing.
_LIMITS = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}

# Windows are reached by a prompt of this many positions at most; the probe has
# examined the masks of longer ones.
_LONGEST_PROMPT = 320


@dataclass(frozen=True)
class Case:
    """One batch: `lengths` are the prompt lengths of its rows, padded on the left. The
    first token of each stands at `first_position`."""

    lengths: tuple[int, ...]
    steps: int
    first_position: int = 0

    @property
    def width(self) -> int:
        return max(self.lengths)

    @property
    def pads(self) -> torch.Tensor:
        """i64[B] padding positions of each row"""
        return torch.tensor([self.width - length for length in self.lengths])

    def positions(self) -> torch.Tensor:
        """i64[B, width + steps]: positions count from the first real token; the first
        one for padding."""
        columns = torch.arange(self.width + self.steps)
        return (columns[None, :] - self.pads[:, None]).clamp(min=0) + self.first_position

    def tokens(self, vocab_size: int) -> torch.Tensor:
        """i64[B, width + steps]: prompt and forced tokens, the same on every call"""
        generator = torch.Generator().manual_seed(1000 * self.width + len(self.lengths))
        shape = (len(self.lengths), self.width + self.steps)
        return torch.randint(vocab_size, shape, generator=generator)


@dataclass
class Transcript:
    """The logits of one case: [B, width, V] of the prefill, then [B, 1, V] per step."""

    case: Case
    logits: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Agreement:
    """Result of a comparison that passed."""

    positions: int
    largest_error: float  # relative, see _LIMITS
    different_choices: int  # greedy tokens that differ, all of them ties within the error


def cases_for(layers: Sequence[LayerSpec], max_positions: int | None) -> list[Case]:
    """The cases that fit into `max_positions`; one of them reaches beyond the shortest
    window where that is short enough to run."""
    cases = [Case((1,), 2), Case((17,), 3), Case((13, 5, 9), 3)]
    windows = [spec.sliding_window for spec in layers if spec.sliding_window > 0]
    if windows and min(windows) + 9 <= _LONGEST_PROMPT:
        beyond = min(windows) + 9
        cases.append(Case((beyond, beyond - 6), 4))
    return [case for case in cases if not max_positions or case.width + case.steps <= max_positions]


def case_at_the_end(length: int) -> Case:
    """A short prompt whose last step stands at the last of `length` positions."""
    prompt, steps = (17, 3) if length >= 20 else (max(1, length - 1), min(1, length - 1))
    return Case((prompt,), steps, first_position=length - prompt - steps)


def run_original(model, cases: Sequence[Case], device: torch.device) -> list[Transcript]:
    """Runs transformers' own model, which must be on `device`.

    Raises UnsupportedModelError when the model itself yields NaN or infinities.
    """

    def start(case: Case) -> Callable:
        cache = DynamicCache(config=model.config)

        def step(tokens, positions, end):
            seen = torch.arange(end)[None, :] >= case.pads[:, None]
            return model(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=seen.to(device, torch.long),
                past_key_values=cache,
                use_cache=True,
            ).logits

        return step

    name = type(model).__name__
    with foreign_errors(f"{name} cannot run with a cache"), implementations(model, "eager"):
        vocab_size = model.get_input_embeddings().weight.shape[0]
        transcripts = [_run(case, start(case), vocab_size, device) for case in cases]
    for transcript in transcripts:
        for logits in _rows(transcript):
            if not torch.isfinite(logits).all():
                raise UnsupportedModelError(
                    f"the original model yields NaN or infinite logits in {logits.dtype}; "
                    "choose another --dtype"
                )
    return transcripts


def run_traced(
    traced: Callable, cases: Sequence[Case], vocab_size: int, device: torch.device
) -> list[Transcript]:
    """Runs a module of the contract with the Python cache of `attention_op`."""

    def start(case: Case) -> Callable:
        cache = AttentionCache(case.pads.to(device))

        def step(tokens, positions, end):
            with cache:
                return traced(tokens, positions, torch.arange(tokens.shape[1], device=device))

        return step

    with foreign_errors("the traced model fails where the original one runs"):
        return [_run(case, start(case), vocab_size, device) for case in cases]


def compare(
    original: Sequence[Transcript],
    traced: Sequence[Transcript],
    *,
    weights_dtype: torch.dtype,
    uses_experts: bool = False,
) -> Agreement:
    """Raises CheckFailedError, naming the case and the pass, unless all logits agree
    within the limit of `weights_dtype` and every greedy choice agrees or is a tie
    within that limit.

    A model that routes tokens to experts may, in 16-bit precision, send a token to
    another expert after a last-bit difference, and that token's logits are then rightly
    others. There the limit holds for the median position of each case, which a wrong
    window, scale, cap or mask does not pass either.
    """
    limit = _LIMITS[weights_dtype]
    may_reroute = uses_experts and weights_dtype != torch.float32
    positions, largest, different = 0, 0.0, 0
    for want, got in zip(original, traced, strict=True):
        of_case = []
        for index, (a, b) in enumerate(zip(_rows(got), _rows(want), strict=True)):
            where = f"prompt lengths {list(want.case.lengths)}, " + (
                "prefill" if index == 0 else f"decode step {index}"
            )
            if a.dtype != b.dtype or a.shape != b.shape:
                raise CheckFailedError(
                    f"{where}: logits are {a.dtype} {tuple(a.shape)}, the original model's "
                    f"{b.dtype} {tuple(b.shape)}"
                )
            if not torch.isfinite(a).all():
                raise CheckFailedError(f"{where}: NaN or infinite logits")
            a, b = a.double(), b.double()
            spread = (b - b.mean(dim=-1, keepdim=True)).norm(dim=-1)
            errors = (a - b).norm(dim=-1) / spread.clamp(min=1e-30)
            of_case.append(errors)
            chosen, expected = a.argmax(dim=-1, keepdim=True), b.argmax(dim=-1, keepdim=True)
            margin = (b.gather(-1, expected) - b.gather(-1, chosen)).squeeze(-1)
            if not may_reroute:
                _require_within(errors.max(), limit, where)
                if bool((margin > 4 * limit * b.std(dim=-1)).any()):
                    raise CheckFailedError(f"{where}: another token has the largest logit")
            positions += margin.numel()
            largest = max(largest, float(errors.max()))
            different += int((chosen != expected).sum())
        if may_reroute:
            where = f"prompt lengths {list(want.case.lengths)}, median position"
            _require_within(torch.cat(of_case).median(), limit, where)
    return Agreement(positions, largest, different)


def _require_within(error: torch.Tensor, limit: float, where: str) -> None:
    if float(error) > limit:
        raise CheckFailedError(
            f"{where}: logits differ from the original model's by {float(error):.2g} (relative), "
            f"the limit is {limit:.2g}"
        )


def _run(case: Case, step: Callable, vocab_size: int, device: torch.device) -> Transcript:
    tokens = case.tokens(vocab_size).to(device)
    positions = case.positions().to(device)
    transcript = Transcript(case)
    start = 0
    with torch.no_grad():
        for end in range(case.width, case.width + case.steps + 1):
            logits = step(tokens[:, start:end], positions[:, start:end], end)
            transcript.logits.append(logits.cpu())
            start = end
    return transcript


def _rows(transcript: Transcript) -> list[torch.Tensor]:
    """Per pass the logits [N, V] of the real positions; what a model computes for
    padding means nothing."""
    case = transcript.case
    real = torch.arange(case.width)[None, :] >= case.pads[:, None]
    prefill, *steps = transcript.logits
    return [prefill[real]] + [logits[:, 0] for logits in steps]
