"""What two recordings of the same run have in common, byte by byte.

Left out is what differs between any two runs (docs/durability.md): the UUID,
created_utc and run.batch_id of META, elapsed_ns of every step, the seconds of
SUMMARY, and the checksums over these.
"""

import json
import struct
from pathlib import Path

META, PREFILL_END, STEP, SUMMARY, TRAILER = 1, 4, 5, 7, 8
RECORD_HEADER = struct.Struct("<HBBIQQQQQQQ")
ALIGNMENT = 64


def records(data: bytes):
    """(type, index, payload) of every whole record."""
    at = struct.unpack_from("<I", data, 12)[0]
    while at + RECORD_HEADER.size <= len(data):
        kind, _, _, _, index, offset, stored, *_ = RECORD_HEADER.unpack_from(data, at)
        if kind == 0 or offset != at or at + RECORD_HEADER.size + stored > len(data):
            return
        yield kind, index, data[at + RECORD_HEADER.size : at + RECORD_HEADER.size + stored]
        at += -(-(RECORD_HEADER.size + stored) // ALIGNMENT) * ALIGNMENT


def without_run(kind: int, payload: bytes, stats_bytes: int):
    if kind == META:
        meta = json.loads(payload)
        del meta["created_utc"], meta["run"]["batch_id"]
        return meta
    if kind == SUMMARY:
        summary = json.loads(payload)
        del summary["prefill_seconds"], summary["decode_seconds"]
        return summary
    if kind in (PREFILL_END, STEP):
        return payload[:8] + payload[16 : stats_bytes - 8] + payload[stats_bytes:]
    if kind == TRAILER:
        return payload[8:]  # the file's length: SUMMARY holds numbers as text
    return payload


def content(path: Path) -> list:
    """The header and every whole record, [(type, index, what does not depend on the run)]."""
    data = path.read_bytes()
    if len(data) < 128 or len(data) < struct.unpack_from("<I", data, 12)[0]:
        return []
    header_bytes = struct.unpack_from("<I", data, 12)[0]
    stats_bytes = struct.unpack_from("<Q", data, 120)[0]
    header = data[:32] + data[48 : header_bytes - 8]
    return [("header", 0, header)] + [
        (kind, index, without_run(kind, payload, stats_bytes))
        for kind, index, payload in records(data)
    ]


def is_complete(found: list) -> bool:
    return bool(found) and found[-1][0] == TRAILER


def folder_content(folder: Path) -> dict:
    return {path.name: content(path) for path in sorted(folder.iterdir())}
