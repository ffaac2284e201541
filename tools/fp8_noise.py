#!/usr/bin/env python3
"""Measures what rounding a model's weights or its K/V to FP8 does: the figures of the gate fp8 in
docs/gates.md.

    tools/fp8_noise.py                      # SmolLM2 and the flat model: half an hour
    tools/fp8_noise.py --models flat-bf16

All weights but the embedding are rounded to e4m3 with one scale per output channel, as a checkpoint
in FP8 that the exporter reads, and computed in bfloat16 against the recording of the bfloat16 model:
with the same kernels, with AVX2's, and in parallel. Then K/V is rounded by the cache fp8, alone and
with the weights. The exit status is 1 when the gate fails one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "python"), str(REPOSITORY / "tools")]

from fidelity import models  # noqa: E402


@dataclass(frozen=True)
class Variant:
    name: str
    options: tuple[str, ...] = ()
    rounds_weights: bool = True


VARIANTS = (
    Variant("same kernels"),
    Variant("AVX2", ("--cpu-isa", "avx2")),
    Variant("in parallel", ("--parallel",)),
    Variant("FP8 cache alone", ("--parallel", "--kv-cache", "fp8"), rounds_weights=False),
    Variant("FP8 cache, too", ("--parallel", "--kv-cache", "fp8")),
)
STRETCHES = ("inject", "prefill", "forced")
# As in the table: the larger of K and V where it has a *.
FIGURES = (
    "kl.p99",
    "kl_estimate.p99",
    "logits.relative_noise",
    "kv.key.layer_max.relative_l2",
    "kv.value.layer_max.relative_l2",
    "kv.*.row_max.relative_l2",
    "kv.*.layer_max.scale_error",
    "kv.*.head_max.scale_error",
    "tokens.match_rate",
    "tokens.flips_expected",
    "tokens.flips_deviation",
    "tokens.flips_p",
    "tokens.hard_flips",
)
TOKENS = 128
_LARGEST_E4M3 = 448.0


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    failed = False
    for model in options.models:
        reference = record(model, options)
        rounded = exported_in_fp8(model, options.work)
        for variant in VARIANTS:
            tested = rounded if variant.rounds_weights else models.exported(model, options.work)
            report = replay(reference, tested, variant.options, options)
            verdict = report["verdicts"][0]
            print(f"\n{model.name}, {variant.name}: {report['summary']['steps'] // 2} steps a mode, gate "
                  f"{'passed' if verdict['gate']['passed'] else 'FAILED'}")  # fmt: skip
            print(table(verdict["figures"]), flush=True)
            failed = failed or not verdict["gate"]["passed"]
    return 1 if failed else 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    known = {model.name: model for model in models.MODELS if model.dtype == "bf16"}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kvtool", type=Path, default=REPOSITORY / "build" / "kvtool")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "build" / "fp8")
    parser.add_argument("--models", nargs="+", choices=known, metavar="MODEL",
                        default=["smollm2-bf16", "flat-bf16"])  # fmt: skip
    options = parser.parse_args(argv)
    options.models = [known[name] for name in options.models]
    return options


def record(model: models.Model, options: argparse.Namespace) -> Path:
    """The recordings of the model in bfloat16: SmolLM2's of the example prompts up to their end,
    others' of random ids."""
    prompts = REPOSITORY / "configs" / "prompts.jsonl"
    more = []
    if model.config_class:
        prompts = options.work / f"prompts_{model.name}.jsonl"
        prompts.write_text(
            "".join(json.dumps({"token_ids": ids}) + "\n" for ids in models.prompts(model, 8))
        )
        more = ["--ignore-eos"]
    target = options.work / "recordings" / model.name
    kvtool(
        options.kvtool, "save", "--model", models.exported(model, options.work), "--prompts", prompts,
        "--batch-size", 8, "--max-new-tokens", TOKENS, *more, "--device", "cpu", "--device-label",
        "HERE", "--out", target, "--force",
    )  # fmt: skip
    return target / "HERE"


def exported_in_fp8(model: models.Model, folder: Path) -> Path:
    target = folder / "models" / f"{model.name}-fp8.pt"
    model_id = f"kvtool/{model.name}" if model.config_class else models.SMOLLM2
    command = [
        sys.executable, REPOSITORY / "tools" / "export_model.py", "--dtype", model.torch_dtype,
        "--model", rounded_checkpoint(models.checkpoint(model, folder), folder), "--model-id",
        model_id, "--no-tokenizer", "--output", target, "--force",
    ]  # fmt: skip
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return target


def rounded_checkpoint(source: Path, folder: Path) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    target = folder / "checkpoints" / f"{source.name}_fp8"
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = dict(
        quant_method="fp8", activation_scheme="dynamic", weight_block_size=None
    )
    (target / "config.json").write_text(json.dumps(config))
    tensors = {}
    for path in sorted(source.glob("*.safetensors")):
        for name, weight in load_file(path).items():
            if weight.dim() != 2 or "embed" in name:
                tensors[name] = weight
                continue
            weight = weight.bfloat16().float()
            scale = (weight.abs().amax(dim=1, keepdim=True) / _LARGEST_E4M3).clamp_min(1e-12)
            tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale"] = scale
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def replay(reference: Path, model: Path, more, options: argparse.Namespace) -> dict:
    return kvtool(
        options.kvtool, "replay", "--from", reference, "--model", model, "--device", "cpu",
        "--allow-different-weights", "--gate", "fp8", "--mode", "inject,forced", *more,
        accept=(0, 1),
    )  # fmt: skip


def kvtool(binary: Path, *arguments, accept=(0,)) -> dict:
    command = [str(binary), *map(str, arguments), "--json", "-", "--quiet"]
    environment = {**os.environ, "KVTOOL_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode not in accept:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def table(figures: dict[str, float]) -> str:
    lines = [f"{'figure':32}" + "".join(f"{stretch:>12}" for stretch in STRETCHES)]
    for figure in FIGURES:
        cells = [largest(figures, f"{stretch}.{figure}") for stretch in STRETCHES]
        lines.append(f"{figure:32}" + "".join(f"{cell:12.3g}" for cell in cells))
    return "\n".join(lines)


def largest(figures: dict[str, float], name: str) -> float:
    kinds = [name.replace("*", kind) for kind in ("key", "value")]
    return max(figures.get(each, float("nan")) for each in kinds)


if __name__ == "__main__":
    sys.exit(main())
