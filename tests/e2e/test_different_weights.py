"""Recordings of one model replayed on another: FP8 against FP16 is such a pair, and so is
float32 against bfloat16, whose K/V and logits have other types as well."""

import json
import shutil
import zipfile

import pytest
from kvtool import export


def record(kvtool, model, prompts):
    kvtool.ok("save", "--model", model, "--prompts", prompts, "--batch-size", 3, "--device", "cpu",
              "--max-new-tokens", 12, "--ignore-eos", "--out", "ref_cache")


def replay(*options):
    return ("replay", "--from", "CPU", "--device", "cpu", *options)


def test_other_weights_are_refused_and_both_are_named(exported, kvtool, token_prompts):
    record(kvtool, exported("llama").path, token_prompts)
    done = kvtool.run(*replay("--model", exported("llama", "bfloat16").path))
    assert done.returncode == 3
    assert exported("llama").metadata["weights_sha256"] in done.stderr
    assert exported("llama", "bfloat16").metadata["weights_sha256"] in done.stderr


def test_other_types_are_converted_and_every_report_says_so(exported, kvtool, token_prompts):
    record(kvtool, exported("llama").path, token_prompts)
    lenient = kvtool.directory / "gate.json"
    lenient.write_text('{"rules": {"*.tokens.hard_flips": null, "*.tokens.tie_rate": null,'
                       ' "inject.kv.key.layer_max.relative_l2": {"max": 0.05}}}')
    report = kvtool.json(*replay("--model", exported("llama", "bfloat16").path,
                                 "--allow-different-weights", "--gate", lenient,
                                 "--mode", "inject,forced", "--markdown", "r.md",
                                 "--html", "r.html", "--junit", "r.xml"))
    (verdict,) = report["verdicts"]
    assert verdict["different_weights"]
    assert all(result["replay"]["different_weights"] for result in report["results"])
    # Rounding the model to bfloat16 shows in K, and is no more than that.
    assert 1e-4 < kvtool.figures(report)["inject.kv.key.relative_l2"] < 0.05
    for file in ("r.md", "r.html", "r.xml"):
        assert "different weights" in (kvtool.directory / file).read_text().lower(), file


def test_another_shape_is_refused_even_then(exported, kvtool, token_prompts):
    record(kvtool, exported("llama").path, token_prompts)
    done = kvtool.run(*replay("--model", exported("gpt_bigcode").path,
                              "--allow-different-weights"))
    assert done.returncode == 3


@pytest.fixture
def exported_with(tiny_directory, tmp_path):
    """(family, fields of config.json) -> the same weights exported under this config"""

    def get(family, **fields):
        folder = tmp_path / "model"
        shutil.copytree(tiny_directory(family), folder)
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        output = tmp_path / "other.pt"
        assert export.main(["--model", str(folder), "--model-id", f"kvtool/Tiny-{family}",
                            "--dtype", "float32", "--output", str(output)]) == 0  # fmt: skip
        return output

    return get


@pytest.mark.parametrize(
    "family,fields,field,values",
    [("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
      "rope_parameters.rope_theta", ("10000", "1000000")),
     ("mistral", {"sliding_window": 4}, "sliding_window", ("8", "4")),
     ("llama", {"rms_norm_eps": 1e-3}, "rms_norm_eps", ("1e-06", "0.001"))],
)  # fmt: skip
def test_another_config_of_the_same_weights_is_another_model(
    exported, exported_with, kvtool, token_prompts, family, fields, field, values
):
    record(kvtool, exported(family).path, token_prompts)
    kvtool.ok(*replay("--model", exported(family).path, "--gate", "same-device"))
    other = exported_with(family, **fields)
    refused = kvtool.run(*replay("--model", other))
    assert refused.returncode == 3
    assert f"recorded: {field} = {values[0]}\n" in refused.stderr
    assert f"here:     {field} = {values[1]}" in refused.stderr
    # The first of a batch stays, the others are to be recorded under the other config.
    for name in ("batch3_input1.kvc", "batch3_input2.kvc"):
        for path in (kvtool.directory / "ref_cache").glob(f"CPU/*/{name}"):
            path.unlink()
    resumed = kvtool.run("save", "--model", other, "--prompts", token_prompts, "--batch-size", 3,
                         "--device", "cpu", "--max-new-tokens", 12, "--ignore-eos",
                         "--out", "ref_cache", "--resume")  # fmt: skip
    assert resumed.returncode == 3
    assert f"recorded: {field} = {values[0]}\n" in resumed.stderr


def test_another_config_is_compared_on_request(exported, exported_with, kvtool, token_prompts):
    record(kvtool, exported("mistral").path, token_prompts)
    other = exported_with("mistral", sliding_window=4)
    report = kvtool.json(*replay("--model", other, "--allow-different-weights"), expect=1)
    (verdict,) = report["verdicts"]
    assert verdict["different_config"] and not verdict["different_weights"]
    named = {each["key"]: (each["recorded"], each["live"]) for each in verdict["provenance"]}
    assert named["model.config.sliding_window"] == ("8", "4")
    # The window is a constant of the graph.
    assert set(named) == {"model.config.sliding_window", "model.graph_sha256"}


def test_a_model_from_before_configs_is_used_and_says_so(exported, kvtool, token_prompts, tmp_path):
    old = tmp_path / "old.pt"
    without_config(exported("llama").path, old)
    record(kvtool, old, token_prompts)
    (path,) = (kvtool.directory / "ref_cache").glob("CPU/*/batch3_input0.kvc")
    assert "Config:       unknown" in kvtool.ok("info", path)
    kvtool.ok(*replay("--model", old, "--gate", "same-device"))
    report = kvtool.json(*replay("--model", exported("llama").path, "--gate", "same-device"))
    (config, *_) = report["verdicts"][0]["provenance"]
    assert (config["key"], config["recorded"]) == ("model.config", "unknown")
    digest = exported("llama").metadata["config_sha256"]
    assert config["live"] == digest[:12] + "..."


def without_config(path, target):
    """The exported file as kvtool wrote it before there were configs."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as copy:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("/extra/kvtool.json"):
                metadata = json.loads(content)
                for name in ("config", "config_sha256", "graph_sha256"):
                    del metadata[name]
                content = json.dumps(metadata).encode()
            copy.writestr(entry, content)
