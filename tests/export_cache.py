"""Keeps what takes long to export, under a hash of everything that it was made from.

A run of the tests, and two that run at the same time, export each model once; so does the
next run, until a source of the exporter, a version of its packages or an argument changes.
The folder is $KVTOOL_EXPORT_CACHE, else build/exported-models.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = sorted((REPOSITORY / "python" / "kvtool").glob("*.py"))
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "gguf", "numpy")
_KEPT_SECONDS = 24 * 3600


def fingerprint(sources: Iterable[Path] = tuple(SOURCES)) -> str:
    """Of what makes every model: sources, versions of packages, Python, the CPU's kind."""
    digest = hashlib.sha256(f"{platform.python_version()} {platform.machine()}".encode())
    for package in PACKAGES:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        digest.update(f"\n{package} {version}".encode())
    for source in sources:
        content = source.read_bytes()
        digest.update(f"\n{source.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:20]


class ExportCache:
    """Folders by name, each filled once."""

    def __init__(self, folder: Path, made_by: str):
        self._folder = folder / made_by
        self._folder.mkdir(parents=True, exist_ok=True)
        os.utime(self._folder)
        self._remove_old(folder)

    def get(self, name: str, fill: Callable[[Path], None]) -> Path:
        """The folder `name`. fill(folder) makes it where it is not there yet; who asks for it
        meanwhile, in another process, waits. What fill() began and did not end is not kept."""
        entry = self._folder / name
        with open(self._folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not entry.exists():
                unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self._folder))
                try:
                    fill(unfinished)
                    unfinished.rename(entry)
                except BaseException:
                    shutil.rmtree(unfinished, ignore_errors=True)
                    raise
        return entry

    def _remove_old(self, folder: Path) -> None:
        """What other sources made, unless a run of today may still read it."""
        for other in folder.iterdir():
            if other != self._folder and time.time() - other.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(other, ignore_errors=True)


def default_cache() -> ExportCache:
    folder = os.environ.get("KVTOOL_EXPORT_CACHE") or REPOSITORY / "build" / "exported-models"
    return ExportCache(Path(folder), fingerprint())
