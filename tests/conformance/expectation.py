"""What a reader finds in a recording, as the JSON beside it says it.

    python expectation.py FILE.kvc...

writes FILE.json for recordings that have none yet. One that is there is frozen and stays;
docs/format.md, "Conformance", says what its members mean.
"""

import json
import math
import sys
from pathlib import Path

from kvc import Recording
from kvc_header import CODES, ELEMENTS, Code, Column, Refused
from kvc_records import META
from kvc_values import decode_row, sample_ids
from native import checksum

EXIT_STATUS = {"damaged": 4, "unsupported": 3}


def hex64(number: int) -> str:
    return f"{number:016x}"


def number(value: float):
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else str(value)


def code_of(code: Code) -> dict:
    return {
        "scales": ELEMENTS[code.scale_type],
        "decodes_to": ELEMENTS[code.decoded_type],
        "offsets": code.has_offsets,
        "channels_per_scale": code.channels,
        "positions_per_scale": code.positions,
    }


def column_of(column: Column) -> dict:
    found = {
        "type": {**ELEMENTS, **CODES}[column.element_type],
        "dim": column.dim,
        "row_bytes": column.row_bytes,
        "offset": column.offset,
    }
    return found | ({"code": code_of(column.code)} if column.code else {})


def header_of(recording: Recording) -> dict:
    header = recording.header
    pairs = zip(header.columns[::2], header.columns[1::2], strict=True)
    return {
        "uuid": header.uuid.hex(),
        "model_sha256": header.model_sha256.hex(),
        "save_mode": header.save_mode,
        "logits_type": ELEMENTS[header.logits_type],
        "vocabulary": header.vocabulary,
        "top_k": header.top_k,
        "logits_sample": header.sample,
        "prompt_length": header.prompt_length,
        "delta_bytes": header.delta_bytes,
        "statistics_bytes": header.statistics_bytes,
        "stride": header.stride,
        "layers": [
            {"kv_heads": key.heads, "key": column_of(key), "value": column_of(value)}
            for key, value in pairs
        ],
    }


def statistics_of(recording: Recording, step: int | None) -> dict:
    found = recording.statistics(step)
    token = 0 if step is None else step + 1
    header = recording.header
    return {
        "input": found.input,
        "token": found.token,
        "elapsed_ns": found.elapsed_ns,
        "log_sum_exp": number(found.log_sum_exp),
        "digest": hex64(found.digest),
        "top_ids": found.top_ids,
        "top_logits": [number(each) for each in found.top_logits],
        "sample_ids": sample_ids(header.vocabulary, header.sample, token),
        "sample_logits": [number(each) for each in found.sample_logits],
    }


def by_layer(recording: Recording, bytes_of) -> list | None:
    """[{"key": …, "value": …}] of what `bytes_of` gives for each column."""
    columns = [bytes_of(column) for column in range(len(recording.header.columns))]
    if any(column is None for column in columns):
        return None
    sums = [hex64(checksum(column)) for column in columns]
    return [
        {"key": key, "value": value} for key, value in zip(sums[::2], sums[1::2], strict=True)
    ]


def coded_rows_of(recording: Recording, step: int) -> list:
    """The first head's row of each coded column."""
    rows = []
    for i, column in enumerate(recording.header.columns):
        row = recording.row(i, step) if column.code else None
        if row is None:
            continue
        head = row[: column.head_bytes]
        values = [number(value) for value in decode_row(column, head)]
        place = {"layer": i // 2, "column": "value" if i % 2 else "key", "head": 0}
        rows.append(place | {"bytes": head.hex(), "values": values})
    return rows


def step_of(recording: Recording, step: int) -> dict:
    found = {"step": step, "statistics": statistics_of(recording, step)}
    rows = by_layer(recording, lambda column: recording.row(column, step))
    if rows is not None:
        found["rows"] = rows
        coded = coded_rows_of(recording, step)
        if coded:
            found["coded_rows"] = coded
    return found


def chosen_steps(steps: int) -> list:
    """The first, one in the middle, the last."""
    return sorted({0, steps // 2, steps - 1}) if steps else []


def content_of(recording: Recording) -> dict:
    steps = recording.walk.steps
    found = {
        "records": recording.walk.count,
        "header": header_of(recording),
        "meta": recording.object(META),
        "summary": recording.summary(),
        "prompt": recording.prompt,
    }
    if not recording.has_prefill:
        return found
    tokens = [recording.statistics(step).token for step in [None, *range(steps)]]
    prefill = {"statistics": statistics_of(recording, None)}
    states = by_layer(recording, recording.prompt_column)
    if states is not None:
        prefill["states"] = states
    return found | {
        "tokens": tokens,
        "prefill": prefill,
        "steps": [step_of(recording, step) for step in chosen_steps(steps)],
    }


def damage_of(recording: Recording, damage) -> dict:
    found = {"record": damage.record, "index": damage.index, "last_index": damage.index}
    found |= {"offset": damage.offset, "statistics": damage.statistics}
    columns = recording.damaged_columns(damage)
    if columns is not None:
        names = [{"layer": c // 2, "column": "value" if c % 2 else "key"} for c in columns]
        found["columns"] = names
    return found


def are_alike(one: dict, other: dict) -> bool:
    """Two damages are those of neighbouring steps and differ in nothing else."""
    own = ("index", "last_index", "offset")
    return (
        one["record"] == other["record"] == "STEP"
        and one["last_index"] + 1 == other["index"]
        and all(one[key] == other.get(key) for key in one if key not in own)
    )


def damages_of(recording: Recording) -> list:
    found = []
    for each in recording.walk.damages:
        damage = damage_of(recording, each)
        if found and are_alike(found[-1], damage):
            found[-1]["last_index"] = damage["index"]
        else:
            found.append(damage)
    return found or [packed_damage_of(offset) for offset in recording.packed_damages]


def packed_damage_of(offset: int) -> dict:
    """Of the packed file alone: nothing of the original is lost."""
    found = {"record": None, "index": 0, "last_index": 0, "offset": offset}
    return found | {"statistics": False, "in_packed": True}


def error(kind: str) -> dict:
    return {"kind": kind, "exit_status": EXIT_STATUS[kind]}


def expectation(path: Path) -> dict:
    found = {"file": path.name, "bytes": path.stat().st_size}
    try:
        recording = Recording(path)
    except Refused as refusal:
        return found | {"state": "refused", "error": error(refusal.kind)}
    found |= {"packed": recording.packed, "state": recording.state}
    if recording.state == "damaged":
        found |= {"error": error("damaged"), "complete": recording.walk.complete}
        found |= {"num_steps": recording.walk.steps, "intact_steps": recording.intact_steps}
        return found | {"damages": damages_of(recording)}
    return found | {"num_steps": recording.walk.steps} | content_of(recording)


def as_text(value, indent: int = 0) -> str:
    """JSON with an object or a list of lists a line where it fits."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= 98 or not isinstance(value, (dict, list)) or not value:
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, list) and not isinstance(value[0], (dict, list)):
        return flat
    if isinstance(value, list):
        return "[\n" + ",\n".join(pad + as_text(v, indent + 1) for v in value) + f"\n{pad[1:]}]"
    items = [f"{pad}{json.dumps(k)}: {as_text(v, indent + 1)}" for k, v in value.items()]
    return "{\n" + ",\n".join(items) + f"\n{pad[1:]}}}"


def main(paths: list):
    for path in map(Path, paths):
        target = path.with_suffix(".json")
        if target.exists():
            print(f"{target} is frozen", file=sys.stderr)
        else:
            target.write_text(as_text(expectation(path)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
