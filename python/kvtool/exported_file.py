"""Reads the extra files of an exported model without torch.

An exported model is a zip archive that TorchScript wrote: everything lies under one
folder named after the file as it was written, extra files under its `extra/`.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from kvtool.errors import EnvironmentFailure

METADATA_NAME = "kvtool.json"
TOKEN_BYTES_NAME = "token_bytes.bin"
TOKENIZER_LIST_NAME = "tokenizer_files.json"
TOKENIZER_FOLDER = "tokenizer/"


def read_extra_files(path: Path) -> dict[str, bytes]:
    """All extra files by name, such as "kvtool.json" or "tokenizer/tokenizer.json".

    Raises EnvironmentFailure when the file is missing, no zip archive, damaged, or
    not written by kvtool's exporter.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for name in archive.namelist():
                _folder, _, inner = name.partition("/")
                if inner.startswith("extra/"):
                    found[inner.removeprefix("extra/")] = archive.read(name)
    except OSError as error:
        raise EnvironmentFailure(f"{path}: cannot read the model file: {error.strerror}") from None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise EnvironmentFailure(f"{path}: not an exported model, or damaged: {error}") from None
    if METADATA_NAME not in found:
        raise EnvironmentFailure(
            f"{path}: has no {METADATA_NAME}; export the model with tools/export_model.py"
        )
    return found


def read_json(extra_files: dict[str, bytes], name: str):
    """One extra file parsed as JSON. Raises EnvironmentFailure when it is not JSON."""
    try:
        return json.loads(extra_files[name])
    except (KeyError, ValueError) as error:
        raise EnvironmentFailure(f"extra file {name} of the model is unusable: {error}") from None
