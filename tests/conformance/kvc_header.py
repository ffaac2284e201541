"""The file header, written from docs/format.md alone ("Header", "Extension of 1.1")."""

import struct
from dataclasses import dataclass

from native import checksum

MAGIC = bytes.fromhex("894B56540D0A1A0A")
PACKED, EXTENDED = 1, 2  # incompatible feature bits
SAVE_MODES = {1: "delta", 2: "prefill_only", 3: "final_only"}
ELEMENTS = {1: "float32", 2: "float16", 3: "bfloat16", 4: "float8_e4m3fn", 5: "float8_e5m2"}
CODES = {6: "int8", 7: "uint8", 8: "int4", 9: "uint4"}
BITS = {1: 32, 2: 16, 3: 16, 4: 8, 5: 8, 6: 8, 7: 8, 8: 4, 9: 4}


class Refused(Exception):
    """Nothing of the file can be read; `kind` is "damaged" or "unsupported"."""

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind = kind


def align(value: int, to: int) -> int:
    return -(-value // to) * to


def damaged_unless(condition: bool, why: str):
    if not condition:
        raise Refused("damaged", f"header: {why}")


@dataclass
class Code:
    """How coded rows are stored."""

    scale_type: int
    decoded_type: int
    has_offsets: bool
    channels: int
    positions: int

    def groups(self, dim: int) -> int:
        return -(-dim // self.channels)


@dataclass
class Column:
    """K or V of one layer."""

    element_type: int
    heads: int
    dim: int
    offset: int
    code: Code | None = None

    @property
    def head_bytes(self) -> int:
        if self.code is None:
            return self.dim * BITS[self.element_type] // 8
        scale = BITS[self.code.scale_type] // 8
        codes = align((self.dim * BITS[self.element_type] + 7) // 8, scale)
        return codes + scale * self.code.groups(self.dim) * (2 if self.code.has_offsets else 1)

    @property
    def row_bytes(self) -> int:
        return self.heads * self.head_bytes


@dataclass
class Header:
    version: tuple
    length: int
    features: int
    uuid: bytes
    model_sha256: bytes
    save_mode: str
    logits_type: int
    vocabulary: int
    top_k: int
    prompt_length: int
    delta_bytes: int
    stride: int
    statistics_bytes: int
    sample: int
    columns: list  # K of layer 0, V of layer 0, K of layer 1, …

    @property
    def layers(self) -> int:
        return len(self.columns) // 2


def header_length(layers: int, extended: bool) -> int:
    return align(128 + 32 * layers + (32 + 32 * layers if extended else 0) + 8, 64)


def read_version(data: bytes) -> tuple:
    """(major, minor, length, features); refuses what is no recording or unknown."""
    if data[:8] != MAGIC[: len(data)] or not data:
        raise Refused("damaged", "no recording: it does not start with the magic")
    if len(data) < 128:
        raise Refused("damaged", "the file ends within its header")
    major, minor, length, features = struct.unpack_from("<HHIQ", data, 8)
    if major != 1:
        raise Refused("unsupported", f"major version {major}")
    if features & ~(PACKED | EXTENDED):
        raise Refused("unsupported", f"incompatible feature bits {features:#x}")
    return major, minor, length, features


def read_code(data: bytes, at: int, element_type: int, dim: int) -> Code | None:
    scale, decoded, offsets, zero, channels, positions, more = struct.unpack_from("<4B3I", data, at)
    if scale == 0:
        damaged_unless(not any(data[at : at + 16]), "a code without scales")
        damaged_unless(element_type in ELEMENTS, "codes of rows that are plain")
        return None
    damaged_unless(scale in (1, 2, 3) and decoded in (1, 2, 3), "type of scales")
    damaged_unless(4 <= element_type <= 9 and offsets <= 1, "a code")
    damaged_unless(1 <= channels <= dim and zero == more == 0, "channels per scale")
    return Code(scale, decoded, bool(offsets), channels, positions)


def read_columns(data: bytes, layers: int, extended: bool) -> list:
    columns = []
    for layer in range(layers):
        entry = struct.unpack_from("<BBHIIIQQ", data, 128 + 32 * layer)
        key_type, value_type, zero, heads, key_dim, value_dim, key_at, value_at = entry
        damaged_unless(zero == 0 and 1 <= heads <= 4096, "KV heads")
        for half, (kind, dim, at) in enumerate(
            ((key_type, key_dim, key_at), (value_type, value_dim, value_at))
        ):
            damaged_unless(1 <= dim <= 65536, "dimension")
            code = None
            if extended:
                place = 128 + 32 * layers + 32 + 32 * layer + 16 * half
                code = read_code(data, place, kind, dim)
            damaged_unless(code is not None or kind in ELEMENTS, "element type")
            columns.append(Column(kind, heads, dim, at, code))
    return columns


def check_derived(header: Header):
    at = 0
    for column in header.columns:
        damaged_unless(column.offset == at, "offset of a row")
        at += align(column.row_bytes, 16)
    damaged_unless(header.delta_bytes == at, "length of a delta")
    sample_bytes = header.sample * BITS[header.logits_type] // 8
    statistics = align(40 + 8 * header.top_k + sample_bytes + 8, 64)
    damaged_unless(header.statistics_bytes == statistics, "length of a statistics block")
    delta = header.delta_bytes if header.save_mode == "delta" else 0
    damaged_unless(header.stride == 64 + align(statistics + delta, 64), "step stride")


def read_header(data: bytes) -> Header:
    major, minor, length, features = read_version(data)
    extended = bool(features & EXTENDED)
    fields = struct.unpack_from("<16s32sBBHIIIQQQQ", data, 32)
    uuid, model, mode, logits, zero, vocabulary, top_k, layers, prompt, *derived = fields
    damaged_unless(length % 64 == 0 and length <= 1 << 20, "its length")
    damaged_unless(1 <= layers <= 4096, "number of layers")
    least = header_length(layers, extended)
    # Only a later minor version may have a longer one.
    exact = minor <= (1 if extended else 0)
    damaged_unless(length == least if exact else length >= least, "its length")
    if len(data) < length:
        raise Refused("damaged", "the file ends within its header")
    stored = struct.unpack_from("<Q", data, length - 8)[0]
    damaged_unless(checksum(data[: length - 8]) == stored, "checksum")
    damaged_unless(mode in SAVE_MODES and logits in ELEMENTS and zero == 0, "save mode or types")
    damaged_unless(1 <= vocabulary < 1 << 31, "vocabulary")
    damaged_unless(1 <= prompt <= 1 << 26, "prompt length")
    sample = struct.unpack_from("<I", data, 128 + 32 * layers)[0] if extended else 0
    damaged_unless(top_k <= min(1024, vocabulary), "top-k")
    damaged_unless(sample <= min(1024, vocabulary), "sample of logits")
    header = Header(
        (major, minor), length, features, uuid, model, SAVE_MODES[mode], logits, vocabulary,
        top_k, prompt, *derived, sample, read_columns(data, layers, extended),
    )  # fmt: skip
    check_derived(header)
    return header
