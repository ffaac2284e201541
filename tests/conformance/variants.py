"""How two frozen recordings were made that no kvtool writes but every reader must accept.

    python variants.py FOLDER

writes v1_later_minor.kvc, a file of a later minor version, and v1_1_packed_cut.kvc, a packed
file whose pieces are cut as no record is. Both hold what another file of FOLDER holds.
"""

import struct
import sys
from pathlib import Path

from kvc_header import PACKED, align, read_header
from kvc_packed import PACK_END, PACKED_RECORD, front_end
from kvc_records import STEP, Bytes, Walker
from native import checksum, compress


def padded(data: bytes) -> bytes:
    return data + bytes(align(len(data), 64) - len(data))


def record(kind, sequence, index, offset, payload, uuid, codec=0, flags=0, unpacked=None):
    raw = len(payload) if unpacked is None else unpacked
    head = struct.pack("<HBBIQQQQ", kind, codec, flags, sequence, index, offset, len(payload), raw)
    head += uuid[8:] + struct.pack("<Q", checksum(payload))
    return head + struct.pack("<Q", checksum(head)) + padded(payload)


def with_header(data: bytes, length: int, changes: dict) -> bytes:
    """The header with other bytes, `length` long, its checksum right."""
    head = bytearray(data[: read_header(data).length - 8]).ljust(length - 8, b"\0")
    for at, value in ({12: struct.pack("<I", length)} | changes).items():
        head[at : at + len(value)] = value
    return bytes(head) + struct.pack("<Q", checksum(head))


def later_minor(data: bytes) -> bytes:
    """Minor version 9: a longer header, a compatible feature, flags, records of unknown types."""
    header = read_header(data)
    records = Walker(Bytes(data), header).run().records
    length = header.length + 128
    changes = {10: b"\x09\0", 24: b"\x20", header.length - 8: b"later fields"}
    result, offsets = with_header(data, length, changes), {}
    sequence = 0
    for (kind, index), found in records.items():
        # Behind PROMPT, and between PREFILL_END and the steps.
        if (kind, index) in ((3, 0), (STEP, 0)):
            unknown = b"what nobody knows"
            result += record(77, sequence, 5, len(result), unknown, header.uuid, 9, 3, 4096)
            sequence += 1
        payload = data[found.offset + 64 : found.offset + 64 + found.stored]
        offsets[kind, index] = len(result)
        if kind == 8:
            places = [offsets.get(key, 0) for key in ((3, 0), (4, 0), (5, 0), (6, 0), (7, 0))]
            steps = struct.unpack_from("<Q", payload, 16)[0]
            payload = struct.pack("<8Q", len(result) + 128, sequence + 1, steps, *places)
        result += record(kind, sequence, index, len(result), payload, header.uuid, flags=1)
        sequence += 1
    return result


def section(piece: bytes, rows: int, column: int, width: int, size: int) -> tuple:
    """Table entry and stream; every plane as one zstd frame where that is shorter."""
    row_bytes = len(piece) // rows
    starts = range(column, len(piece), row_bytes)
    elements = b"".join(piece[at : at + width] for at in starts)
    planes = []
    for i in range(size):
        plane = elements[size - 1 - i :: size]
        frame = compress(plane)
        planes.append(frame if len(frame) < len(plane) else plane)
    lengths = [len(plane) for plane in planes] + [0] * (4 - size)
    stream = b"".join(planes)
    sums = checksum(stream), checksum(elements)
    return struct.pack("<II4IQQ", width, size, *lengths, *sums), stream


def packed_payload(piece: bytes, rows: int, shapes: list) -> bytes:
    sections, column = [], 0
    for width, size in shapes:
        sections.append(section(piece, rows, column, width, size))
        column += width
    head = struct.pack("<II", rows, len(sections))
    entries = b"".join(entry for entry, _ in sections)
    return head + struct.pack("<Q", checksum(head + entries)) + entries + b"".join(
        stream for _, stream in sections
    )


def packed_cut(data: bytes) -> bytes:
    """Pieces of 520 bytes, five rows of three sections with elements of 4, 2 and 1 bytes."""
    header = read_header(data)
    end = front_end(Bytes(data), header)
    result = with_header(data, header.length, {16: bytes([header.features | PACKED])})
    result += data[header.length : end]
    sequence, pieces = 2, 0
    for at in range(end, len(data), 520):
        piece = data[at : at + 520]
        whole = len(piece) == 520
        payload = packed_payload(piece, 5 if whole else 1, [(64, 4), (38, 2), (2, 1)]
                                 if whole else [(len(piece), 1)])
        result += record(PACKED_RECORD, sequence, at, len(result), payload, header.uuid, 1,
                         unpacked=len(piece))
        if pieces == 0:
            result += record(78, sequence + 1, 0, len(result), b"unknown", header.uuid)
            sequence += 1
        sequence, pieces = sequence + 1, pieces + 1
    last = struct.pack("<3Q", len(data), checksum(data), pieces)
    return result + record(PACK_END, sequence, 0, len(result), last, header.uuid)


def main(folder: str):
    for source, target, variant in (
        ("v1_checksums_delta", "v1_later_minor", later_minor),
        ("v1_1_delta", "v1_1_packed_cut", packed_cut),
    ):
        path = Path(folder) / f"{target}.kvc"
        if path.exists():
            print(f"{path} is frozen", file=sys.stderr)
        else:
            path.write_bytes(variant((Path(folder) / f"{source}.kvc").read_bytes()))


if __name__ == "__main__":
    main(sys.argv[1])
