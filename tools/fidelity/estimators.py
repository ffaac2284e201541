"""The formulas of docs/metrics.md in numpy, written from that page: a second computation of what
kvtool measures, beside the truth from all logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

TOP_K = 32
SAMPLE = 64
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Step:
    true_kl: float
    lower_bound: float
    estimated_kl: float
    standard_error: float
    flipped: bool
    flip_probability: float


def step(reference, live, token: int) -> Step:
    """One token from both sides' logits, [vocabulary]."""
    x, y = reference.astype(numpy.float64), live.astype(numpy.float64)
    best = ranking(x)[:TOP_K]
    log_p, log_q = x - log_sum_exp(x), y - log_sum_exp(y)
    bins = divergence(log_p[best], log_q[best]).sum() + divergence(
        *(numpy.log(max(1 - numpy.exp(side[best]).sum(), 1e-12)) for side in (log_p, log_q))
    )
    tail, error = tail_divergence(x, y - x, best, token)
    rest = 1 - numpy.exp(log_p[best]).sum()
    return Step(
        true_kl=float(divergence(log_p, log_q).sum()),
        lower_bound=float(bins),
        estimated_kl=float(bins + rest * tail),
        standard_error=float(rest * error),
        flipped=bool(best[0] != ranking(y)[0]),
        flip_probability=flip_probability(x[best], best, (y - x)[best]),
    )


def ranking(logits):
    """Ids by logit descending, then id ascending; only the first TOP_K + ties are in order."""
    least = numpy.partition(logits, len(logits) - TOP_K)[len(logits) - TOP_K]
    ids = numpy.flatnonzero(logits >= least)
    return ids[numpy.lexsort((ids, -logits[ids]))]


def log_sum_exp(logits) -> float:
    most = logits.max()
    return most + numpy.log(numpy.exp(logits - most).sum())


def divergence(log_p, log_q):
    """p log(p / q) - p + q."""
    p, difference = numpy.exp(log_p), log_q - log_p
    return p * (numpy.expm1(difference) - difference)


def sampled_ids(vocab_size: int, token: int) -> numpy.ndarray:
    """docs/format.md, "Sample of logits"."""
    ids = []
    for j in range(SAMPLE):
        first, end = j * vocab_size // SAMPLE, (j + 1) * vocab_size // SAMPLE
        z = (0x73616D706C652031 + (65536 * token + j + 1) * 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        ids.append(first + (z ^ (z >> 31)) % (end - first))
    return numpy.array(ids)


def tail_divergence(reference, deltas, best, token: int) -> tuple[float, float]:
    """KL inside of what is not among the best, and its standard error, from the sample."""
    ids = numpy.setdiff1d(sampled_ids(len(reference), token), best)
    weights = numpy.exp(reference[ids] - reference[ids].max())
    weights /= weights.sum()
    centred = deltas[ids] - (weights * deltas[ids]).sum()
    variance = (weights * centred**2).sum()
    correction = 1 - (weights**2).sum()
    spread = numpy.sqrt((weights**2 * (centred**2 - variance) ** 2).sum())
    return variance / 2 / correction, spread / 2 / correction


def flip_probability(logits, ids, deltas) -> float:
    """Over all permutations of the deltas among the ids; `logits` descend."""
    gaps, wins_ties = logits[0] - logits[1:], ids[1:] < ids[0]
    ordered = numpy.sort(deltas)
    count = len(deltas)
    kept = 0.0
    for taken in range(count):
        others = numpy.delete(ordered, taken)
        limits = gaps + ordered[taken]
        harmless = numpy.where(
            wins_ties,
            numpy.searchsorted(others, limits, "left"),
            numpy.searchsorted(others, limits, "right"),
        )
        places = numpy.arange(count - 1)
        kept += numpy.prod(numpy.maximum(numpy.sort(harmless) - places, 0) / (count - 1 - places))
    return float(1 - kept / count)
