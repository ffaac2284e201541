"""The bytes of every token id, so that text can be printed without a tokenizer.

`token_bytes.bin`, little-endian: u32 count, then count + 1 offsets (u32, the first
is 0) into the bytes that follow. Token t is bytes[offset[t] : offset[t + 1]]; ids
that the tokenizer does not know are empty. Concatenating the bytes of a token
sequence gives its text in UTF-8; a single token may hold part of a character.

Tokenizers that mark the begin of a word (SentencePiece, WordPiece) put a space before
the first word of a text too; it is up to the reader to drop it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "\u2581"


def encode(table: list[bytes]) -> bytes:
    """The file content for `table`. Raises ValueError when it exceeds 4 GiB."""
    offsets = [0]
    for piece in table:
        offsets.append(offsets[-1] + len(piece))
    if offsets[-1] > 0xFFFFFFFF:
        raise ValueError("the bytes of all tokens exceed 4 GiB")
    head = struct.pack(f"<I{len(offsets)}I", len(table), *offsets)
    return head + b"".join(table)


def decode(content: bytes) -> list[bytes]:
    """The inverse of `encode`. Raises ValueError for content of another form."""
    try:
        (count,) = struct.unpack_from("<I", content)
        offsets = struct.unpack_from(f"<{count + 1}I", content, 4)
    except struct.error as error:
        raise ValueError(f"token bytes are cut short: {error}") from None
    body = content[4 + 4 * (count + 1) :]
    if offsets[0] != 0 or list(offsets) != sorted(offsets) or offsets[-1] != len(body):
        raise ValueError("offsets of the token bytes are out of order or out of range")
    return [body[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]


def table_of(tokenizer, count: int) -> list[bytes]:
    """The bytes of ids 0 .. count-1 of a transformers tokenizer; `count` is the width
    of the logits. All empty without a tokenizer (None)."""
    table = [b""] * count
    if tokenizer is None:
        return table
    added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    to_bytes = _converter(tokenizer)
    for token, token_id in tokenizer.get_vocab().items():
        if 0 <= token_id < count and token_id not in added:
            table[token_id] = to_bytes(token, token_id)
    # Added tokens stand for their literal text, whatever the vocabulary's alphabet is.
    for token_id, text in added.items():
        if 0 <= token_id < count:
            table[token_id] = _utf8(text)
    return table


def _converter(tokenizer) -> Callable[[str, int], bytes]:
    """Chooses how a vocabulary entry becomes bytes."""
    steps = _decoder_steps(tokenizer)
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds or hasattr(tokenizer, "byte_decoder"):
        alphabet = _byte_alphabet()
        return lambda token, _id: _from_alphabet(token, alphabet)
    marks_spaces = "Metaspace" in kinds or any(
        step["type"] == "Replace" and step.get("pattern") == {"String": _SPACE_MARK}
        for step in steps
    )
    if marks_spaces or "ByteFallback" in kinds or hasattr(tokenizer, "sp_model"):
        return lambda token, _id: _from_sentencepiece(token)
    for step in steps:
        if step["type"] == "WordPiece":
            prefix = step.get("prefix", "##")
            return lambda token, _id: _from_wordpiece(token, prefix)
        if step["type"] == "BPEDecoder":
            suffix = step.get("suffix", "</w>")
            return lambda token, _id: _from_word_end(token, suffix)
    return lambda token, token_id: _from_decode(tokenizer, token_id)


def _decoder_steps(tokenizer) -> list[dict]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return []
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return decoder.get("decoders", [decoder] if decoder else [])


def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE writes for each byte, inverted.

    Printable Latin-1 bytes stand for themselves, all others are numbered from 256 on
    (GPT-2's table).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def _from_alphabet(token: str, alphabet: dict[str, int]) -> bytes:
    # Characters outside the alphabet occur in tokens that were put into the
    # vocabulary by hand; they are text already.
    return b"".join(bytes([alphabet[char]]) if char in alphabet else _utf8(char) for char in token)


def _from_sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    if byte:
        return bytes([int(byte.group(1), 16)])
    return _utf8(token.replace(_SPACE_MARK, " "))


def _from_wordpiece(token: str, prefix: str) -> bytes:
    if token.startswith(prefix):
        return _utf8(token[len(prefix) :])
    return _utf8(" " + token)


def _from_word_end(token: str, suffix: str) -> bytes:
    if token.endswith(suffix):
        return _utf8(token[: -len(suffix)] + " ")
    return _utf8(token)


def _from_decode(tokenizer, token_id: int) -> bytes:
    text = tokenizer.decode(
        [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return _utf8(text)


def _utf8(text: str) -> bytes:
    # A lone surrogate in a vocabulary cannot be printed; it must not stop an export.
    return text.encode("utf-8", errors="replace")
