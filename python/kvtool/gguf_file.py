"""A GGUF file as data: its metadata by key, and the names of its tensors."""

from __future__ import annotations

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
