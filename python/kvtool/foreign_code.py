"""Python code that comes with a model or a tokenizer: kvtool never runs it.

transformers would ask on the terminal whether it may, and would wait for the answer. A
folder's code would run with the user's rights, and what it computes is nothing that the
exporter could check: the code would be its own judge.
"""

from __future__ import annotations

# For every `from_pretrained`: classes of transformers alone, and no question.
NEVER_RUN = {"trust_remote_code": False}


def is_needed(error: BaseException) -> bool:
    """Whether transformers failed because it may not run code that the source brings."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def refusal(where: str, part: str) -> str:
    """The message for a `part` ("model", "tokenizer") of `where` that only its own code
    can load."""
    way_out = {
        "model": "export a checkpoint whose model type transformers has itself",
        "tokenizer": "add --no-tokenizer to export without it (prompts then have to be given "
        "as token ids), or put a tokenizer.json with a tokenizer_class of transformers beside "
        "the model",
    }[part]
    return (
        f"{where}: the {part} needs Python code of its own (auto_map), which kvtool never runs; "
        f"{way_out}"
    )
