"""The walk over records, written from docs/format.md alone ("Records", "Truncated or damaged").

It reads from the start and notes what is damaged. Behind a damaged record header it goes on
at the next record that is where it says it is.
"""

import json
import struct
from dataclasses import dataclass, field

from kvc_header import Header, Refused, align
from kvc_values import Wrong, read_statistics
from native import checksum

META, PROMPT, PREFILL, PREFILL_END, STEP, FINAL, SUMMARY, TRAILER, CHECKSUMS = range(1, 10)
NAMES = {
    META: "META", PROMPT: "PROMPT", PREFILL: "PREFILL", PREFILL_END: "PREFILL_END", STEP: "STEP",
    FINAL: "FINAL", SUMMARY: "SUMMARY", TRAILER: "TRAILER", CHECKSUMS: "CHECKSUMS",
}  # fmt: skip
# CHECKSUMS stands before SUMMARY.
ORDER = (META, PROMPT, PREFILL, PREFILL_END, STEP, FINAL, CHECKSUMS, SUMMARY, TRAILER)


@dataclass
class RecordHeader:
    kind: int
    codec: int
    sequence: int
    index: int
    offset: int
    stored: int
    unpacked: int
    uuid_half: bytes
    payload_checksum: int

    @property
    def end(self) -> int:
        return self.offset + 64 + align(self.stored, 64)


@dataclass
class Damage:
    record: str | None  # None: bytes behind TRAILER
    index: int
    offset: int
    statistics: bool = False  # the statistics block is damaged, too


@dataclass
class Walk:
    records: dict = field(default_factory=dict)  # (type, index) -> RecordHeader
    payloads: dict = field(default_factory=dict)  # … -> bytes, of those that are intact
    damages: list = field(default_factory=list)
    complete: bool = False
    count: int = 0
    steps: int = 0  # whole ones, damaged ones included


class Bytes:
    """A file's bytes, of which some may be unknown."""

    def __init__(self, data: bytes, unknown: list = ()):
        self.data, self.unknown = data, unknown

    def known(self, start: int, end: int) -> bool:
        return not any(start < last and first < end for first, last in self.unknown)


def read_record_header(source: Bytes, at: int) -> RecordHeader | None:
    data = source.data[at : at + 64]
    if len(data) < 64 or not source.known(at, at + 64):
        return None
    if struct.unpack_from("<Q", data, 56)[0] != checksum(data[:56]):
        return None
    kind, codec, _, sequence, index, offset, stored, unpacked, half, payload = struct.unpack(
        "<HBBIQQQQ8sQ8x", data
    )
    return RecordHeader(kind, codec, sequence, index, offset, stored, unpacked, half, payload)


class Walker:
    def __init__(self, source: Bytes, header: Header):
        self.source, self.header = source, header
        self.at = header.length
        self.sequence = 0
        self.last = (0, 0)  # type and index of the record before, unknown types left out
        self.is_behind_loss = False  # then nobody knows what may come next
        self.walk = Walk()

    def run(self) -> Walk:
        while self.step():
            pass
        if self.last[0] < PROMPT and not self.walk.damages:
            raise Refused("damaged", "the file ends within META or PROMPT")
        return self.walk

    def damage(self, *what):
        self.walk.damages.append(Damage(*what))

    # --- What may stand where ------------------------------------------------------

    def expected(self) -> list:
        """(type, index) of all records that may come next, those of unknown type left out."""
        kind, index = self.last
        final_only = self.header.save_mode == "final_only"
        layers = self.header.layers
        behind_state = [(CHECKSUMS, 0), (SUMMARY, 0)]
        if kind == 0:
            return [(META, 0)]
        if kind == META:
            return [(PROMPT, 0)]
        if kind == PROMPT:
            return [(PREFILL_END, 0)] if final_only else [(PREFILL, 0)]
        if kind == PREFILL:
            return [(PREFILL_END, 0)] if index + 1 == layers else [(PREFILL, index + 1)]
        if kind in (PREFILL_END, STEP):
            next_step = (STEP, index + 1 if kind == STEP else 0)
            return [next_step, *([(FINAL, 0)] if final_only else behind_state)]
        if kind == FINAL:
            return behind_state if index + 1 == layers else [(FINAL, index + 1)]
        return [(SUMMARY, 0)] if kind == CHECKSUMS else [(TRAILER, 0)]

    def expected_length(self, kind: int) -> int | None:
        header = self.header
        if kind == PROMPT:
            return 4 * header.prompt_length
        if kind == PREFILL_END:
            return header.statistics_bytes
        if kind == STEP:
            return header.statistics_bytes + (
                header.delta_bytes if header.save_mode == "delta" else 0
            )
        if kind == TRAILER:
            return 64
        if kind == CHECKSUMS:
            groups = -(-self.walk.steps // 64) if header.save_mode == "delta" else 0
            return 16 + 16 * header.layers * (1 + groups)
        return None

    def state_length(self, layer: int, positions: int) -> int:
        key, value = self.header.columns[2 * layer : 2 * layer + 2]
        return align(positions * key.row_bytes, 64) + positions * value.row_bytes

    def header_problem(self, record: RecordHeader) -> str:
        if record.offset != self.at or record.uuid_half != self.header.uuid[8:]:
            return "offset or UUID"
        if record.sequence != self.sequence:
            return "sequence number"
        if self.is_behind_loss:
            return ""
        if record.kind not in NAMES:
            # Of unknown type: anywhere behind PROMPT, not inside a run.
            return "" if self.last[0] >= PROMPT else "order"
        if (record.kind, record.index) not in self.expected():
            return "order"
        if record.codec != 0 or record.unpacked != record.stored:
            return "codec"
        wanted = self.expected_length(record.kind)
        if record.kind == PREFILL:
            wanted = self.state_length(record.index, self.header.prompt_length)
        if record.kind == FINAL:
            wanted = self.state_length(record.index, self.header.prompt_length + self.walk.steps)
        return "length" if wanted is not None and record.stored != wanted else ""

    # --- One record after another ----------------------------------------------------

    def step(self) -> bool:
        source, at = self.source, self.at
        rest = len(source.data) - at
        if rest < 64:
            return False  # rule 1
        record = read_record_header(source, at)
        if record is None:
            if source.known(at, at + rest) and not any(source.data[at:]):
                return False  # rule 3
            return self.skip_lost_headers()
        if self.header_problem(record):
            return self.skip_lost_headers()
        if record.end > len(source.data):
            return False  # rule 2
        return self.take(record)

    def take(self, record: RecordHeader) -> bool:
        source = self.source
        payload = source.data[record.offset + 64 : record.offset + 64 + record.stored]
        padding = source.data[record.offset + 64 + record.stored : record.end]
        right = (
            source.known(record.offset, record.end)
            and checksum(payload) == record.payload_checksum
            and not any(padding)
        )
        behind_is_zero = source.known(record.end, len(source.data)) and not any(
            source.data[record.end :]
        )
        may_be_torn = record.kind not in (META, PROMPT, TRAILER)
        if not right and may_be_torn and behind_is_zero:
            return False  # rule 4
        key = (record.kind, record.index)
        statistics_wrong = self.statistics_wrong(record, payload)
        if right and not statistics_wrong and self.content_right(record, payload):
            self.walk.payloads[key] = payload
        else:
            name = NAMES.get(record.kind, "unknown")
            self.damage(name, record.index, record.offset, statistics_wrong)
        self.note(key, record)
        if record.kind == TRAILER and record.end < len(source.data):
            self.damage(None, 0, record.end)
        return record.kind != TRAILER

    def note(self, key: tuple, record: RecordHeader):
        walk = self.walk
        walk.records[key] = record
        self.at, self.is_behind_loss = record.end, False
        walk.count += 1
        self.sequence += 1
        if key[0] in NAMES:
            self.last = key
        if key[0] == STEP:
            walk.steps = key[1] + 1
        if key[0] == TRAILER:
            walk.complete = True

    def statistics_wrong(self, record: RecordHeader, payload: bytes) -> bool:
        if record.kind not in (PREFILL_END, STEP):
            return False
        start, length = record.offset + 64, self.header.statistics_bytes
        if not self.source.known(start, start + length):
            return True
        try:
            read_statistics(self.header, payload[:length], record.kind == PREFILL_END)
        except Wrong:
            return True
        return False

    def content_right(self, record: RecordHeader, payload: bytes) -> bool:
        if record.kind in (META, SUMMARY):
            try:
                return isinstance(json.loads(payload.decode()), dict)
            except ValueError:
                return False
        if record.kind == PROMPT:
            tokens = struct.iter_unpack("<i", payload)
            return all(0 <= token < self.header.vocabulary for (token,) in tokens)
        if record.kind == TRAILER:
            return self.trailer_right(record, payload)
        return True

    def trailer_right(self, record: RecordHeader, payload: bytes) -> bool:
        walk = self.walk
        first = [(PREFILL, 0), (PREFILL_END, 0), (STEP, 0), (FINAL, 0), (SUMMARY, 0)]
        offsets = [walk.records[key].offset if key in walk.records else 0 for key in first]
        wanted = [record.end, record.sequence + 1, walk.steps, *offsets]
        found = list(struct.unpack("<8Q", payload))
        if walk.damages:  # what it counts may be what is damaged
            wanted[2:], found[2:] = [], []
        return found == wanted

    # --- Behind damage ---------------------------------------------------------------

    def skip_lost_headers(self) -> bool:
        """Goes on at the next record whose own offset, UUID and checksum are right."""
        for at in range(self.at + 64, len(self.source.data) - 63, 64):
            found = read_record_header(self.source, at)
            if found is None or found.offset != at or found.uuid_half != self.header.uuid[8:]:
                continue
            if found.sequence > self.sequence:
                self.lose(found, at)
                return True
        self.damage(self.lost_name(), self.expected()[0][1], self.at)
        return False

    def lost_name(self) -> str | None:
        """Where steps may end, nobody knows what is lost."""
        candidates = self.expected()
        return NAMES[candidates[0][0]] if len(candidates) == 1 else None

    def lose(self, found: RecordHeader, end: int):
        """What stands between here and the record that was found."""
        count, stride = found.sequence - self.sequence, self.header.stride
        kind, index = self.expected()[0]
        in_steps = found.kind == STEP or (
            found.kind == CHECKSUMS and self.header.save_mode == "delta"
        )
        if kind == STEP and in_steps and end - self.at == count * stride:
            for i in range(count):
                self.damage("STEP", index + i, self.at + i * stride)
            self.walk.steps = index + count
        else:
            name = self.lost_name()
            self.damage(name, index if name else 0, self.at)
        self.walk.count += count
        self.sequence, self.at, self.is_behind_loss = found.sequence, end, True
