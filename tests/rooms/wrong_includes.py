"""Plants wrong includes in a copy of the tree: tools/check_rooms.py must see each.

    python3 tests/rooms/wrong_includes.py build/rooms.txt
"""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = sys.argv.pop(1)


class WrongIncludes(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for name in ("src", "include"):
            shutil.copytree(REPOSITORY / name, self.root / name)
        self.rooms = self.root / "rooms.txt"
        shutil.copy(ROOMS, self.rooms)

    def check(self):
        """(exit status, what it says) for the copy."""
        done = subprocess.run(
            [sys.executable, REPOSITORY / "tools" / "check_rooms.py", self.rooms, "--root", self.root],
            capture_output=True, text=True)
        return done.returncode, done.stderr

    def plant(self, path: str, line: str):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line + "\n" + (file.read_text() if file.exists() else ""))

    def assert_refused(self, path: str, line: str, reason: str):
        self.plant(path, line)
        status, text = self.check()
        self.assertEqual(status, 1, text)
        self.assertIn(f"{path}:1: {reason}", text)
        self.assertEqual(text.count("\n"), 2, text)

    def test_the_tree_as_it_is_passes(self):
        self.assertEqual(self.check(), (0, ""))

    def test_a_public_header_of_an_undeclared_room(self):
        self.assert_refused("src/format/layout.cc", '#include "kvtool/analysis/gate.h"',
                            "kvtool/analysis/gate.h is of the room analysis, which format does not declare")

    def test_in_a_public_header(self):
        self.assert_refused("include/kvtool/base/file.h", '#include <kvtool/format/row.h>',
                            "kvtool/format/row.h is of the room format, which base does not declare")

    def test_a_private_header_by_its_room(self):
        self.assert_refused("src/analysis/gate.cc", '#include "report/wording.h"',
                            "report/wording.h is of the room report, which analysis does not declare")

    def test_a_private_header_by_a_relative_path(self):
        self.assert_refused("src/report/html/escape.cc", '#  include "../../cli/command.h"',
                            "../../cli/command.h is of the room cli, which report does not declare")

    def test_what_a_declared_room_depends_on_is_not_declared_by_that(self):
        lines = self.rooms.read_text()
        self.assertIn("analysis kvtool::analysis kvtool::base ", lines)
        self.rooms.write_text(lines.replace("kvtool::analysis kvtool::base ", "kvtool::analysis "))
        status, text = self.check()
        self.assertEqual(status, 1)
        self.assertIn("is of the room base, which analysis does not declare", text)

    def test_torch_outside_of_the_engine(self):
        self.assert_refused("src/analysis/gate.cc", "#include <ATen/ATen.h>",
                            "ATen/ATen.h needs Libtorch::torch, which analysis does not declare")

    def test_options_outside_of_the_command_line(self):
        self.assert_refused("src/report/text.cc", "#include <CLI/CLI.hpp>",
                            "CLI/CLI.hpp needs CLI11::CLI11, which report does not declare")

    def test_logging_in_a_room_that_only_formats(self):
        self.assert_refused("src/report/text.cc", "#include <spdlog/spdlog.h>",
                            "spdlog/spdlog.h needs spdlog::spdlog, which report does not declare")

    def test_an_unknown_library(self):
        self.assert_refused("src/base/file.cc", "#include <boost/any.hpp>",
                            "boost/any.hpp belongs to no room and to no library")

    def test_a_room_that_nobody_declares(self):
        self.assert_refused("src/attic/old.cc", "#include <vector>",
                            "no CMakeLists.txt declares the room attic")

    def test_rooms_that_declare_each_other(self):
        self.rooms.write_text(self.rooms.read_text() + "base kvtool::base_extra kvtool::format\n")
        status, text = self.check()
        self.assertEqual(status, 1)
        self.assertIn("rooms declare each other in a circle: ", text)


if __name__ == "__main__":
    unittest.main()
