#!/usr/bin/env python3
"""Draws plots/kv_cache_comparison.png of a folder that `kvtool experiment` wrote.

    python3 tools/plot_experiment.py experiments/20261201-120000

Needs matplotlib, which kvtool itself does not: the same pictures are in the folder's
experiment.html and plots/kv_cache_comparison.svg. Reads experiment_summary.json alone.
"""

import argparse
import json
import sys
from pathlib import Path

EXIT_USAGE = 2
EXIT_ENVIRONMENT = 5
SMALLEST_KL = 1e-6  # where a divergence of 0 is drawn on an axis of powers of ten
MEGABYTE = 1e6


def load_summary(folder: Path) -> dict:
    path = folder / "experiment_summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SystemExit(fail(f"{path}: {error.strerror}; name the folder of an experiment"))
    except json.JSONDecodeError as error:
        raise SystemExit(fail(f"{path}: {error}"))


def fail(message: str, status: int = EXIT_USAGE) -> int:
    print(f"plot_experiment: error: {message}", file=sys.stderr)
    return status


def device_megabytes(experiment: dict):
    places = experiment["peak_bytes_by_place"]
    return places[0]["peak_bytes"] / MEGABYTE if places else None


def series(summary: dict) -> dict:
    """Experiments of each mode and entry that have figures, by what a legend calls them."""
    entries = {}
    for experiment in summary["experiments"]:
        entries.setdefault(experiment["mode"], set()).add(experiment["experiment"])
    found = {}
    for experiment in summary["experiments"]:
        if experiment["latency_ms"] is None:
            continue
        label = experiment["mode"]
        if len(entries[label]) > 1:
            label += f" ({experiment['experiment']})"
        found.setdefault(label, []).append(experiment)
    return found


def spread_over_contexts(experiments: list, name: str, scale: float = 1.0):
    """(contexts, medians, distances to the least and the most)"""
    points = [(each["context_length"], each[name]) for each in experiments if each[name]]
    medians = [spread["median"] * scale for _, spread in points]
    below = [(spread["median"] - spread["min"]) * scale for _, spread in points]
    above = [(spread["max"] - spread["median"]) * scale for _, spread in points]
    return [context for context, _ in points], medians, [below, above]


def frontier(points: list) -> list:
    """Of (memory, divergence) those that nothing with as little memory beats."""
    best, kept = float("inf"), []
    for memory, divergence in sorted(points):
        if divergence < best:
            best = divergence
            kept.append((memory, divergence))
    return kept


def quality_points(experiments: list) -> list:
    """(context, memory, divergence) of what acted"""
    points = []
    for each in experiments:
        memory, quality = device_megabytes(each), each["quality"]
        if each["idle"] is None and memory is not None and quality and quality["kl_mean"] is not None:
            points.append((each["context_length"], memory, max(quality["kl_mean"], SMALLEST_KL)))
    return points


def draw(summary: dict, target: Path, pyplot) -> None:
    lines = series(summary)
    figure, ((latency, rates), (memory, quality)) = pyplot.subplots(2, 2, figsize=(13, 8))
    for label, experiments in lines.items():
        contexts, medians, errors = spread_over_contexts(experiments, "latency_ms")
        latency.errorbar(contexts, medians, yerr=errors, marker="o", capsize=3, label=label)
        for name, style in (("cache_hit_rate", "-"), ("prediction_accuracy", "--")):
            contexts, medians, errors = spread_over_contexts(experiments, name, 100.0)
            if contexts:
                rates.errorbar(contexts, medians, yerr=errors, marker="o", linestyle=style,
                               label=f"{label}, {name.replace('_', ' ')}")
        contexts = [each["context_length"] for each in experiments]
        memory.plot(contexts, [device_megabytes(each) for each in experiments], marker="o",
                    label=label)
        points = quality_points(experiments)
        if points:
            _, megabytes, divergences = zip(*points)
            quality.scatter(megabytes, divergences, label=label)
    everything = [point for each in lines.values() for point in quality_points(each)]
    for context in sorted({point[0] for point in everything}):
        best = frontier([point[1:] for point in everything if point[0] == context])
        quality.step(*zip(*best), where="post", linestyle="--", color="grey")
        quality.annotate(str(context), best[0], xytext=(0, 6), textcoords="offset points")
    for axes, title in ((latency, "Latency of a generation, ms"), (rates, "Hits and foreseen, %"),
                        (memory, "K/V on the device at most, MB")):
        axes.set(title=title, xlabel="tokens of context")
        axes.set_ylim(bottom=0)
    quality.set(title="Mean KL divergence (nats) against memory", xlabel="MB on the device at most",
                yscale="log")
    for axes in (latency, rates, memory, quality):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.suptitle(f"K/V caches on {summary['device']}, {summary['created_utc']}")
    figure.tight_layout()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with an experiment_summary.json")
    parser.add_argument("--output", type=Path, metavar="FILE.png",
                        help="default FOLDER/plots/kv_cache_comparison.png")
    options = parser.parse_args()
    summary = load_summary(options.folder)
    try:
        import matplotlib
    except ImportError:
        return fail("this Python has no matplotlib: install it (pip install matplotlib), or look at "
                    f"{options.folder / 'plots' / 'kv_cache_comparison.svg'}", EXIT_ENVIRONMENT)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    target = options.output or options.folder / "plots" / "kv_cache_comparison.png"
    draw(summary, target, pyplot)
    print(f"Wrote {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
