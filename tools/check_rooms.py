#!/usr/bin/env python3
"""Compares every include with what the including file's room declares.

    python3 tools/check_rooms.py [--picture] build/rooms.txt

A room is a folder of src/ together with include/kvtool/ROOM. What it may include is what
its CMakeLists.txt names in DEPENDS: rooms, and libraries of LIBRARIES below. CMake
writes that to rooms.txt of its build folder (cmake/KvtoolRooms.cmake), one target a
line: the room, the target, its dependencies. Linking cannot hold rooms apart: what a
room depends on brings its own dependencies along, and static libraries may depend on one
another in a circle.

Says each include that its room did not declare, each that it cannot assign, and rooms
that declare each other in a circle. The exit status is 1 if there is one.
--picture prints the edges that are included, one room a line, lowest first.
"""

import argparse
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# What an angle include that starts so needs in DEPENDS: any one of these targets.
LIBRARIES = {
    "ATen/": ["Libtorch::torch"],
    "caffe2/": ["Libtorch::torch"],
    "c10/": ["Libtorch::torch"],
    "torch/": ["Libtorch::torch"],
    "CLI/": ["CLI11::CLI11"],
    "fmt/": ["fmt::fmt"],
    "nlohmann/": ["nlohmann_json::nlohmann_json"],
    "pugixml.hpp": ["pugixml::pugixml"],
    "spdlog/": ["spdlog::spdlog"],
    "xxh": ["PkgConfig::XXHASH"],
    "yaml-cpp/": ["yaml-cpp::yaml-cpp"],
    "zstd": ["PkgConfig::ZSTD"],
}
# C++ and C standard headers, POSIX and Linux: <vector>, <stdlib.h>, <sys/mman.h>.
SYSTEM = re.compile(r"(?:(?:sys|linux|netinet|arpa)/)?\w+(?:\.h)?")
INCLUDE = re.compile(r"^\s*#\s*include\s*([<\"])([^>\"]+)[>\"]", re.MULTILINE)
SUFFIXES = {".cc", ".cpp", ".h", ".hpp", ".inc"}


class Rooms:
    """What CMake wrote: room -> targets it declares, target -> room it belongs to."""

    def __init__(self, text: str):
        self.declared = {}
        self.room_of = {}
        for line in text.splitlines():
            room, target, *depends = line.split()
            self.room_of[target] = room
            self.declared.setdefault(room, set()).update(depends)

    def uses(self, room: str) -> set:
        return {self.room_of[name] for name in self.declared[room] if name in self.room_of} - {room}

    def order(self) -> list:
        """Lowest first; raises CycleError."""
        return list(TopologicalSorter({room: self.uses(room) for room in self.declared}).static_order())


def room_of_path(path: Path, root: Path):
    """None for what lies in no room."""
    for folder in (root / "src", root / "include" / "kvtool"):
        if path.is_relative_to(folder) and len(path.relative_to(folder).parts) > 1:
            return path.relative_to(folder).parts[0]
    return None


def sources(root: Path):
    for folder in (root / "src", root / "include" / "kvtool"):
        for path in sorted(folder.rglob("*")):
            if path.suffix in SUFFIXES and room_of_path(path, root):
                yield path


def included_file(name: str, source: Path, room: str, root: Path):
    """The file of this tree that an include means, as the compiler looks for it."""
    for folder in (source.parent, root / "src" / room, root / "src", root / "include"):
        path = (folder / name).resolve()
        if path.is_file() and path.is_relative_to(root):
            return path
    return None


def library_targets(name: str):
    """The longest prefix of LIBRARIES wins; None for a name that is under none."""
    prefixes = [prefix for prefix in LIBRARIES if name.startswith(prefix)]
    return LIBRARIES[max(prefixes, key=len)] if prefixes else None


class Checker:
    def __init__(self, rooms: Rooms, root: Path):
        self.rooms = rooms
        self.root = root
        self.edges = {room: set() for room in rooms.declared}
        self.faults = []

    def run(self):
        try:
            self.rooms.order()
        except CycleError as error:
            self.faults.append("rooms declare each other in a circle: " + " -> ".join(error.args[1]))
        for source in sources(self.root):
            room = room_of_path(source, self.root)
            if room not in self.rooms.declared:
                self._fault(source, 1, f"no CMakeLists.txt declares the room {room}")
                continue
            text = source.read_text(encoding="utf-8")
            for match in INCLUDE.finditer(text):
                line = text.count("\n", 0, match.start(2)) + 1
                self._check(source, room, line, match[1] == "<", match[2])
        return self.faults

    def _check(self, source, room, line, is_angle, name):
        path = included_file(name, source, room, self.root)
        if path is not None:
            self._check_room(source, room, line, name, room_of_path(path, self.root))
        elif (targets := library_targets(name)) is not None:
            if not self.rooms.declared[room].intersection(targets):
                self._fault(source, line, f"{name} needs {' or '.join(targets)}, which {room} does not declare")
        elif not is_angle or not SYSTEM.fullmatch(name):
            self._fault(source, line, f"{name} belongs to no room and to no library that tools/check_rooms.py knows")

    def _check_room(self, source, room, line, name, used):
        if used is None:
            self._fault(source, line, f"{name} lies in no room")
        elif used != room:
            self.edges[room].add(used)
            if used not in self.rooms.uses(room):
                self._fault(source, line, f"{name} is of the room {used}, which {room} does not declare")

    def _fault(self, source, line, text):
        self.faults.append(f"{source.relative_to(self.root)}:{line}: {text}")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", type=Path, help="rooms.txt of a build folder")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1],
                        help="the source tree (default: this script's)")
    parser.add_argument("--picture", action="store_true", help="print the edges that are included")
    options = parser.parse_args(arguments)

    rooms = Rooms(options.rooms.read_text(encoding="utf-8"))
    checker = Checker(rooms, options.root.resolve())
    faults = checker.run()
    if options.picture and not faults:
        for room in rooms.order():
            print(f"{room}: {' '.join(sorted(checker.edges[room]))}".rstrip())
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print("A room names what it includes in DEPENDS of its CMakeLists.txt; docs/architecture.md "
              "says which edges there may be.", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
