"""A disk slower than the model: the run waits for it, and its memory does not grow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kvtool import export, tiny_models

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from benchmark.launch import launch  # noqa: E402

# Every write to a recording takes this long; the model computes a step in a fraction of it.
MILLISECONDS = 4
BATCH, NEW_TOKENS = 8, 200

SLOW_WRITE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

ssize_t write(int file, const void* data, size_t bytes) {
  static ssize_t (*really_write)(int, const void*, size_t);
  if (!really_write) really_write = dlsym(RTLD_NEXT, "write");
  if (bytes > 4096) {
    const struct timespec pause = {0, MILLISECONDS * 1000000L};
    nanosleep(&pause, 0);
  }
  return really_write(file, data, bytes);
}
"""


@pytest.fixture(scope="module")
def slow_write(tmp_path_factory):
    """A library to preload."""
    compiler = next(filter(shutil.which, ("cc", "gcc", "g++", "clang")), None)
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("slow_write")
    source = folder / "slow_write.c"
    source.write_text(SLOW_WRITE)
    library = folder / "slow_write.so"
    subprocess.run([compiler, "-x", "c", f"-DMILLISECONDS={MILLISECONDS}", "-shared", "-fPIC",
                    "-o", str(library), str(source), "-ldl"], check=True)
    return library


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """Little to compute, much K/V: 64 KiB a token."""
    import transformers

    folder = tmp_path_factory.mktemp("wide")
    config = transformers.LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=64, num_key_value_heads=64, head_dim=128,
        max_position_embeddings=512)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tiny_models.build_tokenizer().save_pretrained(folder)
    path = folder / "wide.pt"
    assert export.main(["--model", str(folder), "--dtype", "float32", "--model-id", "kvtool/Wide",
                        "--output", str(path)]) == 0
    return path


def peak_mib_of(kvtool, arguments, **environment):
    """Runs to the end; (peak memory of the process in MiB, seconds)."""
    status, measured, errors = launch([str(kvtool.binary), *map(str, arguments)],
                                      {**os.environ, "OMP_NUM_THREADS": "1", **environment},
                                      kvtool.directory)
    assert status == 0, errors
    return measured.peak_bytes / 2**20, measured.seconds


def test_the_run_waits_and_memory_stays_flat(kvtool, wide_model, slow_write):
    prompts = kvtool.prompts([{"token_ids": [3 + i, 7, 9]} for i in range(BATCH)])
    save = ["save", "--model", wide_model, "--prompts", prompts, "--batch-size", BATCH,
            "--max-new-tokens", NEW_TOKENS, "--ignore-eos", "--device", "cpu", "--quiet"]
    fast, fast_seconds = peak_mib_of(kvtool, [*save, "--out", "fast"])
    slow, slow_seconds = peak_mib_of(kvtool, [*save, "--out", "slow"],
                                     LD_PRELOAD=str(slow_write))
    files = sorted(kvtool.directory.glob("slow/CPU/*/*.kvc"))
    recorded = sum(path.stat().st_size for path in files) / 2**20
    print(f"fast: {fast:.0f} MiB in {fast_seconds:.1f} s, slow: {slow:.0f} MiB in "
          f"{slow_seconds:.1f} s, recorded {recorded:.0f} MiB")
    assert len(files) == BATCH and recorded > 90
    kvtool.ok("verify", "slow")
    # What waits for the disk is bounded: a fraction of what is written.
    assert slow_seconds > fast_seconds + 1
    assert slow < fast + 24
