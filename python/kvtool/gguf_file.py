"""A GGUF file as data: its metadata by key, and the names of its tensors."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from pathlib import Path

from kvtool.errors import EnvironmentFailure, UnsupportedModelError


@dataclass(frozen=True)
class GgufFile:
    path: Path
    architecture: str
    values: dict  # every key of the file; numbers, strings, booleans and lists of them
    tensors: dict  # name -> gguf.ReaderTensor

    def key(self, suffix: str) -> str:
        return f"{self.architecture}.{suffix}"

    def get(self, suffix: str, default=None):
        """The value of a key of the architecture, such as "rope.freq_base"."""
        return self.values.get(self.key(suffix), default)

    def tokenizer(self, suffix: str, default=None):
        """The value of a key of the tokenizer, such as "bos_token_id"."""
        return self.values.get("tokenizer.ggml." + suffix, default)

    def array(self, tensor: str):
        """The values of a tensor in float32."""
        from gguf import dequantize

        found = self.tensors[tensor]
        return dequantize(found.data, found.tensor_type).reshape(-1).astype("float32")

    def refuse(self, what: str):
        raise UnsupportedModelError(f"{self.path}: {what}")


def missing_packages() -> EnvironmentFailure:
    return EnvironmentFailure(
        "reading GGUF files needs the Python packages 'accelerate' and 'gguf'; install "
        "python/requirements.txt"
    )


@contextlib.contextmanager
def reading_once():
    """While it lasts, gguf parses a file once and makes a map of tensor names once.

    Config, tokenizer and weights each need the parsed file, in kvtool and in transformers,
    which also makes the same map again for every module of a model: together three fifths
    of the time that an export of SmolLM2 took.
    """
    try:
        import gguf
    except ImportError:  # said by who reads
        yield
        return
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    parse = functools.lru_cache(maxsize=1)(lambda path, _written, _size: before[0](path))

    def reader(path, mode="r"):
        if mode != "r":
            return before[0](path, mode)
        status = os.stat(path)
        return parse(os.path.realpath(path), status.st_mtime_ns, status.st_size)

    gguf.GGUFReader, gguf.get_tensor_name_map = reader, functools.cache(before[1])
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before


def read(path: Path) -> GgufFile:
    """Reads keys and the table of tensors. Raises EnvironmentFailure for a damaged file or
    a missing package."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise missing_packages() from None
    try:
        reader = GGUFReader(path)
        values = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        }
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise EnvironmentFailure(f"{path}: not a GGUF file, or damaged: {error}") from None
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise EnvironmentFailure(f"{path}: names no general.architecture; is the file damaged?")
    return GgufFile(Path(path), architecture, values, tensors)
