"""Turns prompts into token ids exactly as the tokenizer of the model does.

Three ways in: text (encoded like `tokenizer(text)`, with the special tokens that the
tokenizer adds), chat messages (rendered by the chat template, encoded without added
special tokens, like `apply_chat_template`), and token ids. Neither torch nor, for
tokenizers that come as a tokenizer.json, transformers is imported.
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path
from typing import Protocol

from kvtool import foreign_code
from kvtool.errors import EnvironmentFailure, KvtoolError, UsageError
from kvtool.exported_file import METADATA_NAME, TOKENIZER_FOLDER, TOKENIZER_LIST_NAME, read_json

# Values of "encoder" in tokenizer_files.json.
ENCODER_TOKENIZERS = "tokenizers"
ENCODER_TRANSFORMERS = "transformers"


class TextEncoder(Protocol):
    """Encodes one text. The implementations agree with transformers' `tokenizer(...)`."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]: ...


class TokenizersEncoder:
    """The `tokenizers` library on a tokenizer.json."""

    def __init__(self, tokenizer_json: bytes, split_special_tokens: bool = False):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_buffer(tokenizer_json)
        # A tokenizer.json may carry the padding and truncation of its training.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = split_special_tokens

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


class TransformersEncoder:
    """Any tokenizer that transformers can load from a directory. Slow to start."""

    def __init__(self, directory: Path):
        from transformers import AutoTokenizer, logging

        logging.set_verbosity_error()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, **foreign_code.NEVER_RUN
            )
        except ValueError as error:
            if not foreign_code.is_needed(error):
                raise
            raise UsageError(
                "the tokenizer in the model file needs Python code of its own, which kvtool never "
                "runs; give the prompt as 'token_ids'"
            ) from None

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])


class PromptEncoder:
    """Encodes the prompts of one exported model."""

    def __init__(self, extra_files: dict[str, bytes], now: datetime | None = None):
        """`extra_files` as `exported_file.read_extra_files` returns them; the tokenizer is
        loaded when the first text needs it. `now` is the time that chat templates see
        instead of the present one."""
        metadata = read_json(extra_files, METADATA_NAME)
        self._extra_files = extra_files
        self._settings = read_json(extra_files, TOKENIZER_LIST_NAME)
        try:
            self._vocab_size = int(metadata["vocab_size"])
            self._settings.get("encoder")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise EnvironmentFailure(
                "the extra files of the model lack fields: export it again"
            ) from None
        self._bos_id = metadata.get("bos_token_id")
        self._now = now or datetime.now()
        self._encoder: TextEncoder | None = None

    def encode(self, prompt) -> dict:
        """One prompt of the protocol in `encode_prompts` to its answer there.

        Raises UsageError for a prompt that cannot be encoded, EnvironmentFailure when the
        tokenizer cannot be loaded.
        """
        kinds = ("text", "messages", "token_ids")
        if not isinstance(prompt, dict) or len([kind for kind in kinds if kind in prompt]) != 1:
            raise UsageError(
                "must be an object with exactly one of 'text', 'messages', 'token_ids'"
            )
        if "token_ids" in prompt:
            return {"token_ids": self._checked_ids(prompt["token_ids"]), "text": None}
        if "text" not in prompt:
            return self._chat(prompt["messages"])
        text = prompt["text"]
        if not isinstance(text, str):
            raise UsageError("'text' is not a string")
        ids = self._encoded(text, add_special_tokens=True)
        advice = "the text brings one, and the tokenizer adds one: leave it out of the text"
        return _answer(ids, text, self._two_begins(ids, advice))

    def _two_begins(self, ids: list[int], why: str) -> list[str]:
        if self._bos_id is None or ids[:2] != [self._bos_id] * 2:
            return []
        return [f"begins with two begin-of-sequence tokens (id {self._bos_id}): {why}"]

    def _checked_ids(self, ids) -> list[int]:
        if not isinstance(ids, list) or not ids:
            raise UsageError("'token_ids' is not a list with at least one id")
        for token_id in ids:
            if type(token_id) is not int or not 0 <= token_id < self._vocab_size:
                raise UsageError(f"token id {token_id!r} is not within 0..{self._vocab_size - 1}")
        return ids

    def _chat(self, messages) -> dict:
        template = self._settings.get("chat_template")
        if not template:
            raise UsageError("the model has no chat template; give the prompt as 'text'")
        if not isinstance(messages, list) or not messages:
            raise UsageError("'messages' is not a list with at least one message")
        for message in messages:
            if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
                raise UsageError("a message is an object with 'role' and 'content'")
        try:
            from kvtool import chat_content, chat_template
        except ImportError:
            raise EnvironmentFailure(
                "chat prompts need the Python package 'jinja2'; install python/requirements.txt"
            ) from None
        clock = chat_template.Clock(self._now)
        variables = self._settings["special_tokens"]
        try:
            renderer = chat_content.ChatRenderer(template, variables, clock)
            text = renderer.text_of(messages)
        except chat_content.TEMPLATE_ERRORS as error:
            raise UsageError(f"the chat template does not accept the messages: {error}") from None
        ids = self._encoded(text, add_special_tokens=False)
        twice = self._two_begins(ids, "the chat template or the first message writes it twice")
        time = clock.now.isoformat() if clock.was_read else None
        return _answer(ids, text, renderer.warnings + twice, time)

    def _encoded(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text is not valid Unicode: lone surrogate at character {error.start}"
            ) from None
        if self._encoder is None:
            self._encoder = make_encoder(self._extra_files, self._settings)
        ids = self._encoder.encode(text, add_special_tokens)
        if not ids:
            raise UsageError("the text is empty: it encodes to no token at all")
        return self._checked_ids(ids)


def _answer(ids: list[int], text: str, warnings: list[str], clock: str | None = None) -> dict:
    answer: dict = {"token_ids": ids, "text": text}
    if clock:
        answer["clock"] = clock
    if warnings:
        answer["warnings"] = warnings
    return answer


def make_encoder(extra_files: dict[str, bytes], settings: dict) -> TextEncoder:
    """The text encoder that `settings` (tokenizer_files.json) names.

    Raises UsageError when the model came without a tokenizer, EnvironmentFailure when a
    package is missing or the files cannot be loaded.
    """
    kind = settings.get("encoder")
    if kind is None:
        raise UsageError(
            "the model was exported without a tokenizer; give the prompt as 'token_ids'"
        )
    try:
        if kind == ENCODER_TOKENIZERS:
            return TokenizersEncoder(
                extra_files[TOKENIZER_FOLDER + "tokenizer.json"],
                settings.get("split_special_tokens", False),
            )
        with tempfile.TemporaryDirectory(prefix="kvtool-tokenizer-") as directory:
            for name in settings["files"]:
                path = Path(directory, name)
                # A name with ".." in a hostile file must not write elsewhere.
                if not path.resolve().is_relative_to(Path(directory).resolve()):
                    raise EnvironmentFailure(f"the model file names a tokenizer file '{name}'")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(extra_files[TOKENIZER_FOLDER + name])
            return TransformersEncoder(Path(directory))
    except ImportError as error:
        raise EnvironmentFailure(
            f"the Python package '{error.name or error}' is missing; install "
            "python/requirements.txt"
        ) from None
    except (KeyError, OSError, ValueError) as error:
        raise EnvironmentFailure(f"the model's tokenizer cannot be loaded: {error}") from None
    except KvtoolError:
        raise
    except Exception as error:  # `tokenizers` raises bare Exception for a bad file
        raise EnvironmentFailure(f"the model's tokenizer cannot be loaded: {error}") from None
