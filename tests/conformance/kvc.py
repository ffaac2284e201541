"""Reads a recording as docs/format.md says, without a line of kvtool.

For the conformance files only: it takes the whole file into memory.
"""

import json
import struct
from pathlib import Path

from kvc_header import PACKED, align, read_header
from kvc_packed import unpack
from kvc_records import (
    CHECKSUMS,
    FINAL,
    META,
    PREFILL,
    PREFILL_END,
    PROMPT,
    STEP,
    SUMMARY,
    Bytes,
    Walker,
)
from kvc_values import Statistics, read_statistics
from native import checksum


class Recording:
    """Raises Refused where nothing can be read."""

    def __init__(self, path: Path):
        self.stored = path.read_bytes()
        self.packed = bool(read_header(self.stored).features & PACKED)
        source = unpack(self.stored) if self.packed else Bytes(self.stored)
        self.header = read_header(source.data)
        self.source = source
        self.packed_damages = source.damages if self.packed else []
        self.walk = Walker(source, self.header).run()

    @property
    def state(self) -> str:
        if self.walk.damages or self.packed_damages:
            return "damaged"
        return "complete" if self.walk.complete else "truncated"

    def payload(self, kind: int, index: int = 0) -> bytes | None:
        return self.walk.payloads.get((kind, index))

    def object(self, kind: int) -> dict | None:
        """META, or SUMMARY where the file is complete."""
        payload = self.payload(kind)
        readable = payload is not None and (kind == META or self.walk.complete)
        return json.loads(payload) if readable else None

    @property
    def prompt(self) -> list:
        return list(struct.unpack(f"<{self.header.prompt_length}i", self.payload(PROMPT)))

    @property
    def has_prefill(self) -> bool:
        return (PREFILL_END, 0) in self.walk.records

    def statistics(self, step: int | None) -> Statistics | None:
        """Of a step, or of PREFILL_END for None."""
        payload = self.payload(PREFILL_END) if step is None else self.payload(STEP, step)
        if payload is None:
            return None
        block = payload[: self.header.statistics_bytes]
        return read_statistics(self.header, block, step is None)

    # --- K/V: `column` counts K of layer 0, V of layer 0, K of layer 1, … ---------------

    def state_column(self, kind: int, column: int, positions: int) -> bytes | None:
        """[head][position][dim] out of a PREFILL or FINAL record."""
        payload = self.payload(kind, column // 2)
        if payload is None:
            return None
        size = positions * self.header.columns[column].row_bytes
        if column % 2 == 0:
            return payload[:size]
        start = align(positions * self.header.columns[column - 1].row_bytes, 64)
        return payload[start : start + size]

    def final_rows(self, column: int, first: int, count: int) -> bytes | None:
        total = self.header.prompt_length + self.walk.steps
        state = self.state_column(FINAL, column, total) if self.walk.complete else None
        if state is None:
            return None
        shape = self.header.columns[column]
        heads = [head * total + first for head in range(shape.heads)]
        size = shape.head_bytes
        return b"".join(state[at * size : (at + count) * size] for at in heads)

    def prompt_column(self, column: int) -> bytes | None:
        """[head][position][dim] of the prompt's positions."""
        length = self.header.prompt_length
        if self.header.save_mode == "final_only":
            return self.final_rows(column, 0, length)
        return self.state_column(PREFILL, column, length)

    def row(self, column: int, step: int) -> bytes | None:
        """[head][dim] of the position that a step adds."""
        if self.header.save_mode == "final_only":
            return self.final_rows(column, self.header.prompt_length + step, 1)
        payload = self.payload(STEP, step)
        if payload is None or self.header.save_mode != "delta":
            return None
        shape = self.header.columns[column]
        start = self.header.statistics_bytes + shape.offset
        return payload[start : start + shape.row_bytes]

    # --- Checksums of layers -------------------------------------------------------------

    def raw_column(self, damage, column: int) -> bytes:
        """The bytes in the place of a damaged record's K or V."""
        return self.source.data[slice(*self.place(damage, column))]

    def place(self, damage, column: int) -> tuple:
        shape = self.header.columns[column]
        start = damage.offset + 64
        if damage.record == "STEP":
            start += self.header.statistics_bytes + shape.offset
            return start, start + shape.row_bytes
        positions = self.header.prompt_length
        positions += self.walk.steps if damage.record == "FINAL" else 0
        if column % 2:
            start += align(positions * self.header.columns[column - 1].row_bytes, 64)
        return start, start + positions * shape.row_bytes

    @property
    def first_step(self) -> int:
        """Its record may be the damaged one."""
        found = [record for (kind, _), record in self.walk.records.items() if kind == STEP]
        found += [damage for damage in self.walk.damages if damage.record == "STEP"]
        return found[0].offset - found[0].index * self.header.stride

    def group_checksum(self, column: int, group: int) -> int:
        rows = b""
        for step in range(group * 64, min(group * 64 + 64, self.walk.steps)):
            at = self.first_step + 64 + step * self.header.stride
            at += self.header.statistics_bytes + self.header.columns[column].offset
            row = self.source.data[at : at + self.header.columns[column].row_bytes]
            rows += struct.pack("<Q", checksum(row))
        return checksum(rows)

    def stored_checksum(self, column: int, row: int) -> int:
        at = 16 + 8 * (row * len(self.header.columns) + column)
        return struct.unpack_from("<Q", self.payload(CHECKSUMS), at)[0]

    def is_damaged(self, damage, column: int) -> bool | None:
        """None: the file does not say."""
        if not self.source.known(*self.place(damage, column)):
            return True
        if self.payload(CHECKSUMS) is None:
            return False if self.source.unknown else None
        if damage.record == "STEP":
            group = damage.index // 64
            return self.group_checksum(column, group) != self.stored_checksum(column, 1 + group)
        return checksum(self.raw_column(damage, column)) != self.stored_checksum(column, 0)

    def damaged_columns(self, damage) -> list | None:
        """The columns of a damaged STEP, PREFILL or FINAL; None: the file does not say."""
        has_rows = damage.record in ("PREFILL", "FINAL") or (
            damage.record == "STEP" and self.header.save_mode == "delta"
        )
        if not has_rows:
            return None
        columns = range(len(self.header.columns))
        if damage.record != "STEP":
            columns = range(2 * damage.index, 2 * damage.index + 2)
        found = {column: self.is_damaged(damage, column) for column in columns}
        if None in found.values():
            return None
        return [column for column, wrong in found.items() if wrong]

    @property
    def intact_steps(self) -> int:
        """Steps before the first damage; none without the whole prefill."""
        prefill = [(PROMPT, 0), (PREFILL_END, 0)]
        if self.header.save_mode != "final_only":
            prefill += [(PREFILL, layer) for layer in range(self.header.layers)]
        if any(key not in self.walk.payloads for key in prefill):
            return 0
        steps = range(self.walk.steps)
        return next((step for step in steps if (STEP, step) not in self.walk.payloads), len(steps))

    def summary(self) -> dict | None:
        return self.object(SUMMARY)
