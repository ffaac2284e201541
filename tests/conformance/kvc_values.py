"""Numbers of a recording, written from docs/format.md alone: statistics, logits, coded rows."""

import math
import struct
from dataclasses import dataclass

import numpy
from kvc_header import BITS, Column, Header
from native import checksum

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


class Wrong(Exception):
    """The bytes have the right length and are not what they should be."""


def splitmix64(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def sample_ids(vocabulary: int, count: int, token: int) -> list:
    """"Sample of logits": the ids of token number `token`."""
    ids = []
    for j in range(count):
        first, end = j * vocabulary // count, (j + 1) * vocabulary // count
        mixed = splitmix64((0x73616D706C652031 + (65536 * token + j + 1) * GOLDEN) & MASK)
        ids.append(first + mixed % (end - first))
    return ids


def small_float(bits: int, exponent_bits: int, fraction_bits: int, has_inf: bool) -> float:
    sign = -1.0 if bits >> (exponent_bits + fraction_bits) else 1.0
    exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1)
    fraction = bits & ((1 << fraction_bits) - 1)
    bias = (1 << (exponent_bits - 1)) - 1
    largest = (1 << exponent_bits) - 1
    if has_inf and exponent == largest:
        return math.nan if fraction else sign * math.inf
    if not has_inf and exponent == largest and fraction == (1 << fraction_bits) - 1:
        return math.nan
    if exponent == 0:
        return sign * math.ldexp(fraction, 1 - bias - fraction_bits)
    return sign * math.ldexp((1 << fraction_bits) | fraction, exponent - bias - fraction_bits)


def numbers(element_type: int, data: bytes) -> list:
    """Whole numbers of types 1 to 7, one behind the other."""
    if element_type == 1:
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    if element_type == 2:
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    if element_type == 3:
        wide = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
        return numbers(1, wide)
    if element_type == 4:
        return [small_float(byte, 4, 3, has_inf=False) for byte in data]
    if element_type == 5:
        return [small_float(byte, 5, 2, has_inf=True) for byte in data]
    return list(struct.unpack(f"<{len(data)}{'b' if element_type == 6 else 'B'}", data))


def code_numbers(element_type: int, dim: int, data: bytes) -> list:
    if element_type < 8:
        return numbers(element_type, data[:dim])
    halves = [half for byte in data for half in (byte & 15, byte >> 4)][:dim]
    return [half - 16 if element_type == 8 and half > 7 else half for half in halves]


def decode_row(column: Column, row: bytes) -> list:
    """"Coded rows": one head's values, rounded once to float32."""
    code = column.code
    size, groups = BITS[code.scale_type] // 8, code.groups(column.dim)
    behind = len(row) - size * groups * (2 if code.has_offsets else 1)
    scales = numbers(code.scale_type, row[behind : behind + size * groups])
    offsets = numbers(code.scale_type, row[behind + size * groups :]) or [0.0] * groups
    codes = code_numbers(column.element_type, column.dim, row)
    with numpy.errstate(all="ignore"):
        return [
            float(
                numpy.float32(
                    numpy.float64(value) * numpy.float64(scales[channel // code.channels])
                    + numpy.float64(offsets[channel // code.channels])
                )
            )
            for channel, value in enumerate(codes)
        ]


@dataclass
class Statistics:
    input: int
    token: int
    elapsed_ns: int
    log_sum_exp: float
    digest: int
    top_ids: list
    top_logits: list
    sample_logits: list


def read_statistics(header: Header, block: bytes, is_prefill: bool) -> Statistics:
    if struct.unpack_from("<Q", block, len(block) - 8)[0] != checksum(block[:-8]):
        raise Wrong("checksum of the statistics block")
    k, size = header.top_k, BITS[header.logits_type] // 8
    fields = struct.unpack_from("<iiqdQII", block)
    ids = list(struct.unpack_from(f"<{k}i", block, 40))
    logits = list(struct.unpack_from(f"<{k}f", block, 40 + 4 * k))
    sample_at = 40 + 8 * k
    sample = numbers(header.logits_type, block[sample_at : sample_at + header.sample * size])
    inputs = [-1] if is_prefill else range(header.vocabulary)
    if fields[5] != k or fields[0] not in inputs or not -1 <= fields[1] < header.vocabulary:
        raise Wrong("a field of the statistics block")
    if any(not 0 <= each < header.vocabulary for each in ids):
        raise Wrong("a token id of the statistics block")
    return Statistics(*fields[:5], ids, logits, sample)
