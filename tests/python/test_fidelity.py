"""The estimators and the page of tools/fidelity: the formulas of docs/metrics.md, by hand and by
brute force."""

import importlib.util
import itertools
import json
import sys
from pathlib import Path

import numpy
import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from fidelity import cells, estimators, models, page, truth  # noqa: E402


def overtaken(logits, ids, deltas):
    """The live choice is another id: the lowest among the largest."""
    live = logits + deltas
    return ids[live == live.max()].min() != ids[0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("on_a_grid", [False, True])
def test_flip_probability_is_the_share_of_all_permutations(seed, on_a_grid):
    numbers = numpy.random.default_rng(seed)
    logits = numpy.sort(numbers.normal(size=6))[::-1].copy()
    deltas = numbers.normal(scale=0.5, size=6)
    if on_a_grid:
        logits, deltas = numpy.round(logits * 2) / 2, numpy.round(deltas * 2) / 2
    ids = numpy.sort(numbers.permutation(50)[:6]) if on_a_grid else numbers.permutation(50)[:6]
    ways = list(itertools.permutations(deltas))
    expected = sum(overtaken(logits, ids, numpy.array(way)) for way in ways) / len(ways)
    assert estimators.flip_probability(logits, ids, deltas) == pytest.approx(expected, abs=1e-12)


def test_sampled_ids_are_one_of_each_part_and_change():
    first, second = (estimators.sampled_ids(6400, token) for token in (0, 1))
    assert [int(i) // 100 for i in first] == list(range(64))
    assert (first != second).sum() > 50


def noisy_pair(vocabulary, noise, seed):
    numbers = numpy.random.default_rng(seed)
    reference = numbers.normal(size=vocabulary).astype(numpy.float32)
    return reference, reference + noise * numbers.normal(size=vocabulary).astype(numpy.float32)


def test_estimate_meets_the_truth_where_the_bound_does_not():
    pairs = [noisy_pair(5000, 0.02, seed) for seed in range(200)]
    steps = [estimators.step(*pair, token) for token, pair in enumerate(pairs)]
    true, estimated, bound = (
        numpy.mean([getattr(step, name) for step in steps])
        for name in ("true_kl", "estimated_kl", "lower_bound")
    )
    error = numpy.sqrt(sum(step.standard_error**2 for step in steps)) / len(steps)
    # Half the variance of the deltas: 2e-4.
    assert true == pytest.approx(2e-4, rel=0.1)
    assert abs(estimated - true) < 4 * error
    assert bound < true / 5


def test_a_common_shift_and_equal_sides_are_no_divergence():
    reference, _ = noisy_pair(5000, 0.0, 1)
    step = estimators.step(reference, reference + numpy.float32(0.5), 3)
    assert step.true_kl == pytest.approx(0, abs=1e-9)
    assert step.estimated_kl == pytest.approx(0, abs=1e-9)
    assert not step.flipped
    assert step.flip_probability == 0


def cell(**changed):
    figures = {
        "inject.tokens.compared": 2032.0,
        "inject.tokens.matches": 1995.0,
        "inject.tokens.flips_expected": 38.2,
        "inject.tokens.flips_deviation": 5.3,
        "inject.tokens.flips_p": 0.61,
        "inject.tokens.hard_flips": 0.0,
        "inject.logits.relative_noise": 0.0103,
        "inject.kl_estimate.mean": 6.9e-6,
        "inject.kl.mean": 4.7e-8,
    }
    settings = dict(model="flat-bf16", difference="avx2", passed=True, failures=[],
                    figures=figures, caught=6, faults=6)  # fmt: skip
    return cells.Cell(**{**settings, **changed})


def test_page_shows_false_alarms_and_power_side_by_side():
    truths = {"flat-bf16": truth.Truth(1016, 7.05e-6, 6.96e-6, 1e-8, 4.7e-8, 37, 38.2, 5.3)}
    powers = [cells.Power("flat-bf16", {"scaled-values": 0.004, "nonfinite": None})]
    bad = cell(difference="parallel", passed=False, failures=["inject.tokens.flips_p"],
               caught=5, missed=["stale-row"])  # fmt: skip
    text = page.rendered([cell(), bad], powers, truths)
    assert "| 37 | 38.2 ± 5.3 | 0.61 | 0 |" in text
    assert "| flat-bf16 | Llama, 8 layers, vocabulary 32,000 | `16bit-cross` |" in text
    assert "Not measured here: smollm2-bf16, smollm2-f32, flat-f16," in text
    assert "| PASS | 6 of 6 |" in text
    assert "**FAIL**: `inject.tokens.flips_p` | 5 of 6, not stale-row |" in text
    assert "| smallest strength caught | scaled-values |" in text
    assert "| flat-bf16 | 1016 | 7.050e-06 | 6.960e-06 ± 1e-08 | 4.700e-08 | 37 |" in text
    document = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    assert page.replaced(document, text) == f"before\n{page.BEGIN}\n{text}\n{page.END}\nafter\n"


def test_a_cell_without_faults_says_so():
    assert "| PASS | – |" in page.rendered([cell(caught=None, faults=0)], [], {})


class Kvtool:
    """What the laboratory runs, as (command, difference) with the reports that it gets."""

    def __init__(self, monkeypatch):
        self.runs = []
        monkeypatch.setattr(cells.Laboratory, "recordings", lambda *_: Path("recordings"))
        monkeypatch.setattr(models, "exported", lambda *_: Path("model.pt"))
        monkeypatch.setattr(cells.Laboratory, "_run", lambda _, *given, **__: self.report(given))

    def report(self, given):
        difference = next(d for d in cells.DIFFERENCES if set(d.options) <= set(given))
        self.runs.append((given[0], difference.name))
        if given[0] == "replay":
            return {"verdicts": [{"gate": {"passed": True, "rules": []}, "figures": {"kl": 0.5}}]}
        faults = [{"name": "stale-row", "caught": False}, {"name": "nonfinite", "caught": True},
                  {"name": "swapped-heads", "caught": None, "skipped": "one KV head"}]  # fmt: skip
        return {"selftests": [{"control": {"passed": True}, "faults": faults}]}


def measured_by_the_command(work, *options) -> dict:
    spec = importlib.util.spec_from_file_location("fidelity_command", TOOLS / "fidelity.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    parsed = command.parse(["--work", str(work), *options])
    results = command.Results(work / "results.json", parsed.resume)
    laboratory = cells.Laboratory(Path("kvtool"), work, 4, 8)
    command.measure(models.MODELS[2], laboratory, results, parsed)
    return json.loads((work / "results.json").read_text())


def test_faults_are_put_into_every_cell(monkeypatch, tmp_path):
    kvtool = Kvtool(monkeypatch)
    found = measured_by_the_command(tmp_path, "--quick")
    names = [difference.name for difference in cells.DIFFERENCES]
    assert kvtool.runs == [(command, name) for name in names for command in ("replay", "selftest")]
    assert len(found) == len(names)
    for result in found.values():
        assert (result["caught"], result["faults"], result["missed"]) == (1, 2, ["stale-row"])


def test_resume_tries_the_faults_that_are_missing_and_keeps_the_replay(monkeypatch, tmp_path):
    kvtool = Kvtool(monkeypatch)
    found = measured_by_the_command(tmp_path, "--quick")
    parallel = next(name for name in found if name.endswith(" parallel"))
    found[parallel].update(caught=None, faults=0, missed=[], figures={"kl": 0.25})
    del found[next(name for name in found if name.endswith(" avx2"))]
    (tmp_path / "results.json").write_text(json.dumps(found))
    kvtool.runs.clear()
    resumed = measured_by_the_command(tmp_path, "--quick", "--resume")
    assert kvtool.runs == [("replay", "avx2"), ("selftest", "avx2"), ("selftest", "parallel")]
    assert resumed[parallel]["figures"] == {"kl": 0.25}
    assert resumed[parallel]["caught"] == 1


def test_models_differ_in_what_verdicts_depend_on():
    assert len({model.name for model in models.MODELS}) == len(models.MODELS)
    assert {model.dtype for model in models.MODELS} == {"bf16", "f16", "f32"}
    assert sum(model.routed for model in models.MODELS) == 3
    lengths = [len(ids) for ids in models.prompts(models.MODELS[2], 16)]
    assert (min(lengths), max(lengths)) == (24, 87)
    assert models.prompts(models.MODELS[2], 16) == models.prompts(models.MODELS[2], 16)
