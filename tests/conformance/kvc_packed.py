"""Packed files, written from docs/format.md alone ("Packed files")."""

import struct

from kvc_header import PACKED, Header, Refused, read_header
from kvc_records import META, PROMPT, Bytes, read_record_header
from native import checksum, decompress

PACKED_RECORD, PACK_END = 16, 17
MAX_PIECE = 1 << 23


class Unpacked(Bytes):
    """The original, as far as it is there."""

    def __init__(self, data: bytes, unknown: list, damages: list):
        super().__init__(data, unknown)
        self.damages = damages  # offsets in the packed file


def original_header(data: bytes, length: int) -> bytes:
    features = struct.unpack_from("<Q", data, 16)[0] & ~PACKED
    head = data[:16] + struct.pack("<Q", features) + data[24 : length - 8]
    return head + struct.pack("<Q", checksum(head))


def read_table(payload: bytes, raw: int) -> list | None:
    """[(columns, element size, plane lengths, stream checksum, section checksum)] and rows."""
    rows, count, stored = struct.unpack_from("<IIQ", payload)
    end = 16 + 40 * count
    if not 1 <= count <= 16384 or end > len(payload):
        return None
    if checksum(payload[:8] + payload[16:end]) != stored or rows == 0 or raw % rows != 0:
        return None
    sections, columns, stream = [], 0, end
    for i in range(count):
        width, size, *rest = struct.unpack_from("<II4IQQ", payload, 16 + 40 * i)
        planes, checksums = rest[:4], rest[4:]
        if size not in (1, 2, 4) or width == 0 or width % size != 0:
            return None
        plane = width // size * rows
        if any(not (1 <= n <= plane if j < size else n == 0) for j, n in enumerate(planes)):
            return None
        sections.append((columns, width, size, planes[:size], stream, *checksums))
        columns += width
        stream += sum(planes)
    return (rows, sections) if columns * rows == raw and stream <= len(payload) else None


def unpack_section(payload: bytes, rows: int, section: tuple) -> bytes | None:
    _, width, size, planes, at, stream_checksum, raw_checksum = section
    if checksum(payload[at : at + sum(planes)]) != stream_checksum:
        return None
    count = width // size * rows
    elements = bytearray(width * rows)
    for i, length in enumerate(planes):
        plane = payload[at : at + length]
        at += length
        if length < count:
            plane = decompress(plane, count)
            if plane is None:
                return None
        elements[size - 1 - i :: size] = plane  # plane 0 holds the most significant bytes
    return bytes(elements) if checksum(elements) == raw_checksum else None


def unpack_piece(payload: bytes, raw: int) -> tuple:
    """The piece and the parts of it that are unknown, (start, end) each."""
    table = read_table(payload, raw)
    if table is None:
        return bytes(raw), [(0, raw)]
    rows, sections = table
    piece, row_bytes, unknown = bytearray(raw), raw // rows, []
    for section in sections:
        column, width = section[:2]
        elements = unpack_section(payload, rows, section)
        for row in range(rows):
            start = row * row_bytes + column
            if elements is None:
                unknown.append((start, start + width))
            else:
                piece[start : start + width] = elements[row * width : (row + 1) * width]
    return bytes(piece), unknown


def front_end(source: Bytes, header: Header) -> int:
    """Where PROMPT ends."""
    at = header.length
    for kind in (META, PROMPT):
        record = read_record_header(source, at)
        if record is None or record.kind != kind or record.end > len(source.data):
            raise Refused("damaged", "the file ends within META or PROMPT")
        at = record.end
    return at


def next_header(stored: Bytes, at: int, uuid: bytes):
    """Behind damage: the next record that is where it says it is."""
    for place in range(at + 64, len(stored.data) - 63, 64):
        found = read_record_header(stored, place)
        if found is not None and found.offset == place and found.uuid_half == uuid[8:]:
            return found
    return None


class Unpacker:
    def __init__(self, data: bytes):
        self.header = read_header(data)
        self.stored = Bytes(data)
        self.at = front_end(self.stored, self.header)
        head = original_header(data, self.header.length)
        self.original = bytearray(head + data[self.header.length : self.at])
        self.sequence, self.pieces = 2, 0
        self.unknown, self.damages = [], []

    def run(self) -> Unpacked:
        while self.step():
            pass
        return Unpacked(bytes(self.original), self.unknown, self.damages)

    def is_right(self, record) -> bool:
        is_known = record.kind in (PACKED_RECORD, PACK_END)
        if is_known and record.codec != (1 if record.kind == PACKED_RECORD else 0):
            return False
        return (
            record.offset == self.at
            and record.uuid_half == self.header.uuid[8:]
            and record.sequence >= self.sequence
            and (record.kind != PACKED_RECORD or self.is_possible(record))
        )

    def is_possible(self, record) -> bool:
        return (
            record.index >= len(self.original)
            and 1 <= record.unpacked <= MAX_PIECE
            and record.unpacked <= 256 * record.stored
        )

    def step(self) -> bool:
        data = self.stored.data
        if len(data) - self.at < 64 or not any(data[self.at :]):
            return False  # truncated
        record = read_record_header(self.stored, self.at)
        if record is None or not self.is_right(record):
            self.damages.append(self.at)
            record = next_header(self.stored, self.at, self.header.uuid)
            if record is None:
                return False
            self.at = record.offset
        elif record.sequence != self.sequence:
            self.damages.append(self.at)
        return record.end <= len(data) and self.take(record)

    def take(self, record) -> bool:
        data = self.stored.data
        payload = data[self.at + 64 : self.at + 64 + record.stored]
        padding = data[self.at + 64 + record.stored : record.end]
        if checksum(payload) != record.payload_checksum or any(padding):
            self.damages.append(self.at)
        if record.kind == PACKED_RECORD:
            self.take_piece(record, payload)
        self.at, self.sequence = record.end, record.sequence + 1
        if record.kind != PACK_END:
            return True
        self.check_end(record, payload)
        return False

    def take_piece(self, record, payload: bytes):
        missing = record.index - len(self.original)
        if missing:
            self.lose(missing)
        piece, holes = unpack_piece(payload, record.unpacked)
        self.unknown += [(record.index + first, record.index + end) for first, end in holes]
        self.original += piece
        self.pieces += 1

    def lose(self, count: int):
        at = len(self.original)
        self.unknown.append((at, at + count))
        self.original += bytes(count)

    def check_end(self, record, payload: bytes):
        length, whole, pieces = struct.unpack_from("<3Q", payload)
        if length > len(self.original):
            self.lose(length - len(self.original))
        wrong = length != len(self.original) or pieces != self.pieces
        wrong = wrong or (not self.unknown and whole != checksum(self.original))
        if (wrong and not self.damages) or record.end != len(self.stored.data):
            self.damages.append(record.offset)


def unpack(data: bytes) -> Unpacked:
    return Unpacker(data).run()
