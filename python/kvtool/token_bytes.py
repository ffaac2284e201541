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
_REPLACEMENT = "\ufffd"  # what a decoder shows for bytes that are no character


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
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        to_bytes = _BackendDecoder(backend).bytes_of
        for token_id in range(count):
            token = backend.id_to_token(token_id)
            if token is not None:
                table[token_id] = to_bytes(token)
        return table
    added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    to_bytes = _python_decoder(tokenizer)
    for token, token_id in tokenizer.get_vocab().items():
        if 0 <= token_id < count and token_id not in added:
            table[token_id] = to_bytes(token, token_id)
    # Tokenizers in Python keep added tokens from the vocabulary's alphabet.
    for token_id, text in added.items():
        if 0 <= token_id < count:
            table[token_id] = _utf8(text)
    return table


class _BackendDecoder:
    """What a token adds to a text in the middle of which it stands, as the decoder of a
    `tokenizers` tokenizer says: added tokens pass through it like all others.

    The decoder gives text. Only for a token that holds part of a character, where that is no
    text, the two decoders that make bytes are followed by hand.
    """

    # Words that no decoder changes, on both sides of the token: decoders treat the begin and
    # the end of a text otherwise than its middle.
    _BEFORE, _AFTER = "x", "y"

    def __init__(self, backend):
        self._decoder = backend.decoder
        steps = _decoder_steps(backend)
        kinds = {step["type"] for step in steps}
        self._alphabet = _byte_alphabet() if "ByteLevel" in kinds else None
        self._has_byte_tokens = "ByteFallback" in kinds
        self._head = len(self._joined([self._BEFORE]))
        alone = self._joined([self._BEFORE, self._AFTER])
        self._tail = len(alone) - self._head

    def bytes_of(self, token: str) -> bytes:
        if self._has_byte_tokens and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte.group(1), 16)])
        text = self._joined([self._BEFORE, token, self._AFTER])
        text = text[self._head : len(text) - self._tail]
        if self._alphabet and _REPLACEMENT in text:
            return _from_alphabet(token, self._alphabet)
        return _utf8(text)

    def _joined(self, tokens: list[str]) -> str:
        if self._decoder is None:  # `tokenizers` then puts spaces between the tokens
            return " ".join(tokens)
        return self._decoder.decode(tokens)


def _decoder_steps(backend) -> list[dict]:
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return decoder.get("decoders", [decoder] if decoder else [])


def _python_decoder(tokenizer) -> Callable[[str, int], bytes]:
    """Chooses how a vocabulary entry of a tokenizer in Python becomes bytes."""
    if hasattr(tokenizer, "byte_decoder"):
        alphabet = _byte_alphabet()
        return lambda token, _id: _from_alphabet(token, alphabet)
    if hasattr(tokenizer, "sp_model"):
        return lambda token, _id: _from_sentencepiece(token)
    return lambda token, token_id: _from_decode(tokenizer, token_id)


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
    # A token with a character outside the alphabet was put into the vocabulary by hand: it is
    # text already, the whole of it.
    if any(char not in alphabet for char in token):
        return _utf8(token)
    return bytes(alphabet[char] for char in token)


def _from_sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    if byte:
        return bytes([int(byte.group(1), 16)])
    return _utf8(token.replace(_SPACE_MARK, " "))


def _from_decode(tokenizer, token_id: int) -> bytes:
    text = tokenizer.decode(
        [token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return _utf8(text)


def _utf8(text: str) -> bytes:
    # A lone surrogate in a vocabulary cannot be printed; it must not stop an export.
    return text.encode("utf-8", errors="replace")
