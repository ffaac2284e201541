"""Encodes prompts for the `kvtool` binary, which starts this file as a script.

    python3 python/kvtool/encode_prompts.py --model FILE.pt

Standard input holds one JSON document, each prompt in one of three forms:

    {"prompts": [{"text": "..."},
                 {"messages": [{"role": "user", "content": "..."}]},
                 {"token_ids": [1, 2, 3]}]}

and may hold "clock": "2026-11-30T13:22:15.000001", the local time that chat templates see
instead of the present one.

Standard output gets one JSON document, in the same order; "text" is the text that
was encoded (after the chat template), null for token ids:

    {"prompts": [{"token_ids": [...], "text": "..."}, ...]}

A prompt whose chat template has read the clock has the time as "clock", and one of which
the user should know something has "warnings": ["..."].

On failure it gets {"error": "...", "prompt_index": N or null} instead, and the exit
status is 2 (a bad prompt or document) or 5 (a missing package, an unreadable model).
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path

# As a script, the first entry of the path is this package's own folder, whose modules
# would then be importable under top-level names.
if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from kvtool.errors import KvtoolError, UsageError  # noqa: E402
from kvtool.exported_file import read_extra_files  # noqa: E402
from kvtool.prompt_encoder import PromptEncoder  # noqa: E402


def encode_document(extra_files: dict[str, bytes], document) -> dict:
    """The answer to one input document.

    Raises KvtoolError; for a failing prompt it carries the index as `prompt_index`.
    """
    prompts = document.get("prompts") if isinstance(document, dict) else None
    if not isinstance(prompts, list):
        raise UsageError('the input is not of the form {"prompts": [...]}')
    encoder = PromptEncoder(extra_files, _time(document.get("clock")))
    encoded = []
    for index, prompt in enumerate(prompts):
        try:
            encoded.append(encoder.encode(prompt))
        except KvtoolError as error:
            failure = type(error)(f"prompt {index}: {error}")
            failure.prompt_index = index
            raise failure from None
    return {"prompts": encoded}


def _time(clock) -> datetime | None:
    try:
        return None if clock is None else datetime.fromisoformat(clock)
    except (TypeError, ValueError):
        raise UsageError("'clock' is no time such as 2026-11-30T13:22:15") from None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="encode_prompts.py",
        description="Encodes prompts to token ids with the tokenizer of an exported model. "
        "Reads one JSON document from standard input, writes one to standard output.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="FILE.pt")
    options = parser.parse_args(argv)
    status = 0
    try:
        extra_files = read_extra_files(options.model)
        try:
            document = json.loads(sys.stdin.buffer.read())
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the input is not JSON: {error}") from None
        answer = encode_document(extra_files, document)
    except KvtoolError as error:
        answer = {"error": str(error), "prompt_index": getattr(error, "prompt_index", None)}
        status = error.exit_code
    # ASCII only: the reader then needs no agreement on the encoding of the pipe.
    json.dump(answer, sys.stdout)
    sys.stdout.write("\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
