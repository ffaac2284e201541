#!/usr/bin/env python3
"""Counts the tests of JUnit files, as ctest, GoogleTest and pytest write them.

    python3 tools/count_tests.py [--results FOLDER] JUNIT...

Prints "passed failed skipped". To ctest a test program is one test: where FOLDER holds
NAME.xml, written by the program itself, that file's tests count in place of ctest's test
NAME. A program that ctest saw fail counts as a failure even if none of its tests did: it
crashed before it could write them down, or a sanitizer found something at its end.
"""

import argparse
from pathlib import Path
from xml.etree import ElementTree


def outcome(case) -> str:
    children = {child.tag for child in case}
    if children & {"failure", "error"}:
        return "failed"
    if "skipped" in children or case.get("status") in ("notrun", "disabled"):
        return "skipped"
    return "passed"


def outcomes(junit: Path, results=None) -> list:
    """One word for each test of a file."""
    words = []
    for case in ElementTree.parse(junit).iter("testcase"):
        word = outcome(case)
        own = results / f"{case.get('name')}.xml" if results else None
        if own is None or not own.is_file():
            words.append(word)
            continue
        of_program = outcomes(own)
        if word == "failed" and "failed" not in of_program:
            of_program.append("failed")
        words += of_program
    return words


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("junit", type=Path, nargs="+")
    parser.add_argument("--results", type=Path, help="folder of what test programs wrote themselves")
    options = parser.parse_args(arguments)
    words = [word for junit in options.junit for word in outcomes(junit, options.results)]
    print(words.count("passed"), words.count("failed"), words.count("skipped"))
    return 0


if __name__ == "__main__":
    main()
