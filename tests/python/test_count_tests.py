"""tools/count_tests.py: what the last line of tools/test.sh and tools/check.sh is made of."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "count_tests.py"
specification = importlib.util.spec_from_file_location("count_tests", SCRIPT)
count_tests = importlib.util.module_from_spec(specification)
specification.loader.exec_module(count_tests)

PROGRAM = """<testsuites><testsuite name="Kvc">
  <testcase name="Reads" status="run" result="completed"/>
  <testcase name="Writes" status="run" result="completed"/>
  <testcase name="Later" status="notrun" result="suppressed"/>
</testsuite></testsuites>"""


@pytest.fixture
def counts(tmp_path, capsys):
    """(body of ctest's JUnit file, {program: its own file}) -> what the script prints"""

    def get(ctest: str, programs=None) -> str:
        junit, results = tmp_path / "ctest.xml", tmp_path / "results"
        junit.write_text(f"<testsuite>{ctest}</testsuite>")
        results.mkdir()
        for name, text in (programs or {}).items():
            (results / f"{name}.xml").write_text(text)
        assert count_tests.main(["--results", str(results), str(junit)]) == 0
        return capsys.readouterr().out.strip()

    return get


def test_a_programs_tests_count_in_place_of_the_program(counts):
    ctest = '<testcase name="format.0" status="run"/><testcase name="rooms" status="run"/>'
    assert counts(ctest, {"format.0": PROGRAM}) == "3 0 1"


def test_failures_of_a_program_count_once(counts):
    ctest = '<testcase name="format.0" status="fail"><failure message=""/></testcase>'
    broken = PROGRAM.replace('name="Reads" status="run" result="completed"/>',
                             'name="Reads" status="run"><failure message="a"/>'
                             '<failure message="b"/></testcase>')
    assert counts(ctest, {"format.0": broken}) == "1 1 1"


def test_a_program_that_fails_after_its_tests_passed_is_a_failure(counts):
    ctest = '<testcase name="format.0" status="fail"><failure message=""/></testcase>'
    assert counts(ctest, {"format.0": PROGRAM}) == "2 1 1"


def test_a_program_that_crashed_is_a_failure(counts):
    ctest = '<testcase name="format.0" status="fail"><failure message=""/></testcase>'
    assert counts(ctest) == "0 1 0"


def test_skipped_and_disabled_tests_have_not_passed(counts):
    ctest = '<testcase name="a" status="notrun"/><testcase name="b"><skipped/></testcase>'
    assert counts(ctest) == "0 0 2"
