#!/usr/bin/env bash
# Builds and tests the rooms that you work on: the check between two edits.
#
#   bash tools/check.sh [ROOM...]
#
# Without ROOM: the rooms of all files that differ from where this branch left main, or
# that git does not know yet. A change to the build or to what tests share touches every
# room but engine; one to docs/ those whose tests read it. The engine is the only room
# that needs torch: it is built if it is named or touched, in build/; the others in
# build-notorch/, without torch.
#
# Runs the test programs of those rooms themselves, without the suites that carry
# Exhaustive in their names, and holds every include against what its room declares.
# Rooms above the named ones are neither built nor tested: tools/test.sh does all.
#
# Nothing is installed: bash tools/setup.sh does that once. Logs: build/logs. The last
# line is "N passed, N failed"; the exit status is 0 only if nothing failed.
set -euo pipefail

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

_passed=0
_failed=0

# "room test" of every test program: a folder may have several.
test_programs() {
  local file
  for file in "$KVTOOL_ROOT"/tests/*/CMakeLists.txt; do
    sed -n "s|^kvtool_test(\([a-z_0-9]*\).*|$(basename "$(dirname "$file")") \1|p" "$file"
  done
}

known_rooms() { test_programs | cut -d' ' -f1 | sort -u; }

# Files that differ from where this branch left main, one a line.
touched_files() {
  local base=HEAD branch
  for branch in main origin/main; do
    if base="$(git -C "$KVTOOL_ROOT" merge-base HEAD "$branch" 2>/dev/null)"; then break; fi
    base=HEAD
  done
  git -C "$KVTOOL_ROOT" diff --name-only --no-renames "$base"
  git -C "$KVTOOL_ROOT" ls-files --others --exclude-standard
}

# Their tests hold tables of docs/ to those of the code.
rooms_that_read_docs() {
  sed -n "s/^kvtool_docs_test(\(.*\))/\1/p" "$KVTOOL_ROOT"/tests/*/CMakeLists.txt
}

# The rooms of the files on stdin: the part of the path that names a room.
rooms_of_files() {
  local path room
  while read -r path; do
    case $path in
      CMakeLists.txt | CMakePresets.json | cmake/* | src/CMakeLists.txt | tests/CMakeLists.txt | \
        tests/support/*)
        known_rooms | grep -vx engine
        ;;
      docs/*.md) rooms_that_read_docs ;;
      src/*/* | tests/*/*) cut -d/ -f2 <<<"$path" ;;
      include/kvtool/*/*) cut -d/ -f3 <<<"$path" ;;
    esac
  done | sort -u | while read -r room; do
    if known_rooms | grep -qx "$room"; then printf '%s\n' "$room"; fi
  done
}

build_folder() { if [[ $1 == engine ]]; then printf build; else printf build-notorch; fi; }

# The options of a folder's last configuration stand, but for what a room needs.
configuration() {
  if [[ $1 == build ]]; then
    printf '%s\n' --preset dev -DKVTOOL_ENGINE=ON "-DKVTOOL_PYTHON=$KVTOOL_PYTHON"
  else
    printf '%s\n' --preset notorch
  fi
}

# tests_of ROOM: the programs that test it.
tests_of() { test_programs | sed -n "s/^$1 //p"; }

# build_rooms FOLDER ROOM...
build_rooms() {
  local folder=$1 room test targets=() options=()
  shift
  stage "Build $* in $folder"
  for room in "$@"; do
    for test in $(tests_of "$room"); do targets+=("kvtool_${test}_test"); done
  done
  mapfile -t options < <(configuration "$folder")
  if logged "check-$folder" configure_and_build "${targets[*]}" "$folder" "${options[@]}"; then
    return 0
  fi
  show_log_tail 60
  stage_note "the build failed"
  _failed=$((_failed + 1))
  return 1
}

# run_program FOLDER TEST
run_program() {
  local binary="$KVTOOL_ROOT/$1/tests/kvtool_$2_test" status=0 passed=0 failed=0 skipped=0
  local junit="$KVTOOL_LOG_DIR/check-$2.xml"
  rm -f "$junit"
  logged "check-$2" "$binary" --gtest_brief=1 '--gtest_filter=-*Exhaustive*' \
    "--gtest_output=xml:$junit" || status=$?
  if [[ -f "$junit" ]]; then
    read -r passed failed skipped < <(python3 "$KVTOOL_ROOT/tools/count_tests.py" "$junit")
  fi
  # A program that breaks, or that holds no test, has failed.
  if ((failed == 0 && (status != 0 || passed == 0))); then failed=1; fi
  if ((failed > 0)); then show_log_tail 60; fi
  _passed=$((_passed + passed))
  _failed=$((_failed + failed))
  stage_note "${_stage_note:+$_stage_note; }$2 $passed passed, $failed failed"
}

# check_rooms FOLDER ROOM...
check_rooms() {
  local folder=$1 room test
  shift
  build_rooms "$folder" "$@" || return 0
  stage "Test $*"
  for room in "$@"; do
    for test in $(tests_of "$room"); do run_program "$folder" "$test"; done
  done
}

# The includes of all rooms, in whichever folder was configured.
check_includes() {
  stage "Includes"
  local rooms="$KVTOOL_ROOT/$1/rooms.txt"
  if logged check-rooms python3 "$KVTOOL_ROOT/tools/check_rooms.py" "$rooms"; then
    _passed=$((_passed + 1))
  else
    _failed=$((_failed + 1))
    show_log_tail 20
    stage_note "a room includes what it does not declare"
  fi
}

check_main() {
  local room rooms=() torch=() others=()
  case "${1:-}" in
    -h | --help)
      show_help "${BASH_SOURCE[0]}"
      return 0
      ;;
    -*) die "check.sh: unknown option $1" ;;
  esac
  for room in "$@"; do
    known_rooms | grep -qx -- "$room" ||
      die "check.sh: no room $room; there are: $(known_rooms | tr '\n' ' ')"
  done
  neutral_environment
  if (($# > 0)); then rooms=("$@"); else mapfile -t rooms < <(touched_files | rooms_of_files); fi
  for room in "${rooms[@]}"; do
    if [[ $(build_folder "$room") == build ]]; then torch+=("$room"); else others+=("$room"); fi
  done

  if ((${#torch[@]} > 0)); then KVTOOL_PYTHON="$(chosen_python)"; fi

  begin_stages $(((${#torch[@]} > 0 ? 2 : 0) + (${#others[@]} > 0 ? 2 : 0) + (${#rooms[@]} > 0)))
  if ((${#others[@]} > 0)); then check_rooms build-notorch "${others[@]}"; fi
  if ((${#torch[@]} > 0)); then check_rooms build "${torch[@]}"; fi
  if ((${#rooms[@]} > 0)); then
    check_includes "$(build_folder "${rooms[0]}")"
  else
    printf 'No room was touched: name one of %s\n' "$(known_rooms | tr '\n' ' ')" >&2
  fi
  end_stages
  printf '%d passed, %d failed\n' "$_passed" "$_failed"
  ((_failed == 0))
}

check_main "$@"
