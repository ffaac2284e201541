"""The frozen recordings hold what the JSON beside each says (docs/format.md, "Conformance").

tests/format/conformance_test.cc holds kvtool's reader to the same files.
"""

import json
import re
from pathlib import Path

import pytest
from expectation import as_text, expectation

DATA = Path(__file__).resolve().parents[1] / "format" / "data"
RECORDINGS = sorted(DATA.rglob("*.kvc"))
# What a file of another layout that holds the same may say differently.
LAYOUT = {"file", "bytes", "packed", "records"}


def frozen(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", RECORDINGS, ids=name)
def test_reader_finds_what_the_json_says(path):
    wanted = frozen(path)
    wanted.pop("made_from", None)
    found = json.loads(as_text(expectation(path)))
    assert found == wanted


def test_every_json_has_its_recording():
    assert sorted(path.with_suffix(".kvc") for path in DATA.rglob("*.json")) == RECORDINGS


def test_all_states_are_there():
    states = {frozen(path)["state"] for path in RECORDINGS}
    assert states == {"complete", "truncated", "damaged", "refused"}


@pytest.mark.parametrize("path", sorted((DATA / "damaged").glob("*.kvc")), ids=name)
def test_damaged_file_is_made_as_its_json_says(path):
    made = frozen(path)["made_from"]
    data = bytearray((DATA / made["file"]).read_bytes())
    if "length" in made:
        data = data[: made["length"]].ljust(made["length"], b"\0")
    for change in made.get("bytes", []):
        new = bytes.fromhex(change["hex"])
        data[change["at"] : change["at"] + len(new)] = new
    assert data == path.read_bytes()


@pytest.mark.parametrize("path", sorted((DATA / "damaged").glob("*.kvc")), ids=name)
def test_truncated_file_holds_the_beginning_of_its_source(path):
    found = frozen(path)
    if found["state"] != "truncated":
        return
    whole = frozen(DATA / found["made_from"]["file"])
    assert found["prompt"] == whole["prompt"]
    assert found.get("tokens", []) == whole["tokens"][: len(found.get("tokens", []))]
    steps = {step["step"]: step for step in whole["steps"]}
    for step in found.get("steps", []):
        # K/V of a final state is lost with it.
        expected = dict(steps[step["step"]])
        if "rows" not in step:
            expected.pop("rows")
        assert step == expected


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("v1_checksums_delta", "v1_delta"),
        ("v1_checksums_final_only", "v1_final_only"),
        ("v1_checksums_prefill_only", "v1_prefill_only"),
        ("v1_later_minor", "v1_checksums_delta"),
        ("v1_packed_delta", "v1_long_delta"),
        ("v1_1_packed_cut", "v1_1_delta"),
    ],
)
def test_layout_does_not_change_what_is_in_it(path, other):
    one, two = frozen(DATA / f"{path}.kvc"), frozen(DATA / f"{other}.kvc")
    assert {k: v for k, v in one.items() if k not in LAYOUT} == {
        k: v for k, v in two.items() if k not in LAYOUT
    }


def test_state_of_all_positions_is_the_prompt_and_the_rows():
    delta, final = frozen(DATA / "v1_delta.kvc"), frozen(DATA / "v1_final_only.kvc")
    assert delta["prefill"]["states"] == final["prefill"]["states"]
    assert [step["rows"] for step in delta["steps"]] == [step["rows"] for step in final["steps"]]


def test_checksum_is_that_of_the_published_vector():
    """XXH3-64 of nothing, as xxHash's own tests have it."""
    from native import checksum

    assert checksum(b"") == 0x2D06800538D394C2


def test_coded_row_by_hand():
    """int4 codes 1, -2, 7 with one float16 scale of 0.5: low half first, then the scale."""
    from kvc_header import Code, Column
    from kvc_values import decode_row

    column = Column(8, 1, 3, 0, Code(2, 3, False, 3, 1))
    row = bytes([0xE1, 0x07]) + bytes.fromhex("0038")
    assert column.row_bytes == 4
    assert decode_row(column, row) == [0.5, -1.0, 3.5]


def test_sample_ids_are_those_of_the_format_page():
    from kvc_values import sample_ids

    assert sample_ids(50, 3, 0) == [7, 26, 37]
    assert sample_ids(50, 3, 1) == [4, 22, 40]


def test_variants_are_made_as_they_were():
    from kvc_packed import unpack
    from variants import later_minor, packed_cut

    source = (DATA / "v1_checksums_delta.kvc").read_bytes()
    assert later_minor(source) == (DATA / "v1_later_minor.kvc").read_bytes()
    # Another zstd may compress otherwise.
    original = (DATA / "v1_1_delta.kvc").read_bytes()
    assert unpack(packed_cut(original)).data == original


def test_dump_of_the_format_page_is_the_file():
    page = (DATA.parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    example = (DATA / "v1_prefill_only.kvc").read_bytes()
    shown = bytearray(len(example))  # what "*" leaves out is zeros
    lines = re.findall(r"^    ([0-9a-f]{3}): ((?:[0-9a-f]{4} ?){8})", page, re.MULTILINE)
    for place, line in lines:
        shown[int(place, 16) : int(place, 16) + 16] = bytes.fromhex(line)
    assert len(lines) > 60
    assert shown == example
