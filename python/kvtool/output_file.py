"""The names of an exported model: its slug, and the file that it is written to."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from kvtool.errors import EnvironmentFailure, UsageError
from kvtool.exported_file import METADATA_NAME, read_extra_files, read_json

# A slug is the name of a folder, and of a file with an end of 20 bytes while it is written.
MAX_SLUG_LENGTH = 200


def model_slug(model_id: str) -> str:
    """A name for files: lower case, runs of other characters than a-z 0-9 become one
    underscore, none at the ends. `RedHatAI/Meta-Llama-3.1-8B-FP8` ->
    `redhatai_meta_llama_3_1_8b_fp8`. Empty for an id without letters of ASCII and digits."""
    # ASCII first: lower() turns some other letters, such as the Kelvin sign, into a-z.
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"[^A-Za-z0-9]+", "_", model_id).lower()).strip("_")


def checked_slug(model_id: str) -> str:
    """The slug of an id that can name files. Raises UsageError for one that cannot."""
    shown = ascii(model_id) if len(model_id) <= 80 else ascii(model_id[:77] + "...")
    instead = "give another with --model-id, such as --model-id org/name"
    if not model_id.isprintable():
        raise UsageError(
            f"model id {shown}: it holds characters that cannot be printed, or is no valid "
            f"Unicode; {instead}"
        )
    slug = model_slug(model_id)
    if not slug:
        raise UsageError(
            f"model id '{model_id}': files and folders of recordings are named after its letters a-z "
            f"and digits, and it has none; {instead}"
        )
    if len(slug) > MAX_SLUG_LENGTH:
        raise UsageError(
            f"model id {shown}: its name for files has {len(slug)} characters, {MAX_SLUG_LENGTH} "
            f"are possible; {instead}"
        )
    return slug


def require_replaceable(output: Path, model_id: str, force: bool) -> None:
    """Raises UsageError where writing `output` would destroy what is not an older export of
    the same model, unless `force` is given; never allows anything but a regular file."""
    try:
        kind = output.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{output}: {reason}; choose another --output") from None
    if stat.S_ISDIR(kind):
        raise UsageError(f"{output}: is a directory; --output names the file to write")
    if not stat.S_ISREG(kind):
        raise UsageError(f"{output}: is no regular file; choose another --output")
    if force:
        return
    instead = "choose another --output, or --force to replace it"
    try:
        other = read_json(read_extra_files(output), METADATA_NAME)["model_id"]
    except (EnvironmentFailure, KeyError, TypeError):
        raise UsageError(f"{output} exists and is no exported model; {instead}") from None
    if other != model_id:
        raise UsageError(
            f"{output} exists and holds another model, '{other}', not '{model_id}' (names of files "
            f"keep only the letters and digits of an id); {instead}"
        )


def prepare_folder(output: Path) -> None:
    """Makes the folder of `output`. Raises EnvironmentFailure where nobody may write."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFailure(f"{output.parent}: cannot create: {error.strerror}") from None
    if not os.access(output.parent, os.W_OK):
        raise EnvironmentFailure(f"{output.parent}: no permission to write there")
