"""Loads the tokenizer that belongs to a model and packs it for the exported file."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from kvtool import foreign_code, gguf_file, gguf_tokenizer
from kvtool.errors import EnvironmentFailure, UnsupportedModelError
from kvtool.exported_file import TOKENIZER_FOLDER, TOKENIZER_LIST_NAME
from kvtool.model_source import ModelSource
from kvtool.prompt_encoder import (
    ENCODER_TOKENIZERS,
    ENCODER_TRANSFORMERS,
    TextEncoder,
    make_encoder,
)

_TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges.txt", "*.tiktoken", "tekken.json")

_TOKEN_IDS_ONLY = "prompts have to be given as token ids"

# Texts on which an encoder has to agree with the tokenizer before it is trusted:
# spaces, digits, several scripts, code, control characters.
_SAMPLES = (
    "Hello world",
    " leading and  double  spaces ",
    "It's 12,345.67 or 2024-01-31; don't\tworry.\n\nNew line",
    "Größe naïve 日本語 русский \U0001f600 e\u0301",
    "def f(x):\n    return x ** 2  # comment\n",
    "\u2581<0x41> ## </w> \x00\x7f",
)


def load_tokenizer(source: ModelSource, warn) -> object | None:
    """The transformers tokenizer of `source`, or None when its directory has none, or one
    that does not load: the model can be exported all the same.

    `warn(text)` is called for what the user should know. Raises UnsupportedModelError for a
    tokenizer that needs Python code of its own or that a GGUF file describes in a way that
    cannot be followed, EnvironmentFailure for one on the hub that
    cannot be fetched.
    """
    from transformers import AutoTokenizer

    directory = Path(source.location)
    if source.gguf_name:
        tokenizer = gguf_tokenizer.load(gguf_file.read(directory / source.gguf_name))
        if tokenizer is None:
            warn(f"{source} holds no tokenizer: {_TOKEN_IDS_ONLY}")
        return tokenizer
    if directory.is_dir():
        if not any(any(directory.glob(pattern)) for pattern in _TOKENIZER_FILES):
            warn(f"{directory} holds no tokenizer: {_TOKEN_IDS_ONLY}")
            return None
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location, **source.load_arguments)
    except Exception as error:  # every kind of tokenizer fails in its own way
        if foreign_code.is_needed(error):
            raise UnsupportedModelError(foreign_code.refusal(str(source), "tokenizer")) from None
        if not directory.is_dir():
            raise EnvironmentFailure(
                f"{source}: cannot load the tokenizer: {_first_line(error)}; add --no-tokenizer to "
                "export without it"
            ) from None
        warn(f"{source}: {_why_not_loaded(directory, error)}: {_TOKEN_IDS_ONLY}")
        return None
    return tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".: ")


def _why_not_loaded(directory: Path, error: Exception) -> str:
    """In plain words why a tokenizer did not load, and what would help."""
    reason = _first_line(error)
    ready = directory / "tokenizer.json"
    if ready.is_file():
        try:
            json.loads(ready.read_bytes())
        except (OSError, ValueError) as damage:
            return f"tokenizer.json is damaged ({damage}); fetch the file again"
        return f"the tokenizer cannot be loaded ({reason})"
    pieces = sorted(path.name for path in directory.glob("*.model"))
    if pieces:
        return (
            f"{pieces[0]} cannot be read with the Python packages at hand ({reason}); install "
            "'sentencepiece' or 'tiktoken', whichever it was made with, or put the tokenizer.json "
            "of the same model beside it"
        )
    return f"the tokenizer cannot be loaded, for there is no tokenizer.json ({reason})"


def pack_tokenizer(tokenizer, warn) -> dict[str, bytes]:
    """The extra files of a tokenizer (or of None), by name.

    `tokenizer_files.json` tells the prompt encoder what to do:
      files               names under tokenizer/, as save_pretrained wrote them
      encoder             "tokenizers", "transformers", or null: text cannot be encoded
      chat_template       the template's text or null
      special_tokens      the template's variables bos_token, eos_token, ...
      split_special_tokens  whether special tokens in a text are split like other text
    """
    settings: dict = {
        "files": [],
        "encoder": None,
        "chat_template": None,
        "special_tokens": {},
        "split_special_tokens": False,
    }
    if tokenizer is None:
        return {TOKENIZER_LIST_NAME: _json_bytes(settings)}

    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="kvtool-tokenizer-") as directory:
        tokenizer.save_pretrained(directory)
        for path in sorted(Path(directory).rglob("*")):
            if path.is_file():
                files[path.relative_to(directory).as_posix()] = path.read_bytes()
    settings["files"] = sorted(files)
    settings["chat_template"] = chat_template_of(tokenizer)
    settings["special_tokens"] = dict(tokenizer.special_tokens_map)
    settings["split_special_tokens"] = bool(getattr(tokenizer, "split_special_tokens", False))
    packed = {TOKENIZER_FOLDER + name: content for name, content in files.items()}
    if "tokenizer.json" in files:
        packed["tokenizer.json"] = files["tokenizer.json"]

    settings["encoder"] = _choose_encoder(tokenizer, packed, settings)
    if settings["encoder"] is None:
        warn(
            "the saved tokenizer does not encode like the loaded one: prompts have to be given "
            "as token ids"
        )
    packed[TOKENIZER_LIST_NAME] = _json_bytes(settings)
    return packed


def chat_template_of(tokenizer) -> str | None:
    """The template for plain chats; None where there is none or only special ones."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return template.get("default")
    return template or None


def _choose_encoder(tokenizer, packed: dict[str, bytes], settings: dict) -> str | None:
    candidates = [ENCODER_TRANSFORMERS]
    if "tokenizer.json" in packed:
        candidates.insert(0, ENCODER_TOKENIZERS)
    for kind in candidates:
        try:
            encoder = make_encoder(packed, dict(settings, encoder=kind))
            if _agrees(encoder, tokenizer):
                return kind
        except EnvironmentFailure:
            continue
    return None


def _agrees(encoder: TextEncoder, tokenizer) -> bool:
    special = " ".join(tokenizer.all_special_tokens)
    for text in (*_SAMPLES, special):
        for add_special_tokens in (True, False):
            expected = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
            if encoder.encode(text, add_special_tokens) != list(expected):
                return False
    return True


def _json_bytes(value) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", errors="replace")
