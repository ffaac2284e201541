#!/usr/bin/env bash
# Shows what an older kvtool does with the frozen recordings of today.
#
#   bash tools/check_older_reader.sh REVISION
#
# Builds kvtool as it was at REVISION, without torch, in build/older, and lets it read every
# frozen recording of tests/format/data. It must read those of version 1.0 and refuse those of
# version 1.1 by their feature bit (exit status 3), not as damaged (4). The last revision
# that knows 1.0 only is the parent of the one that added src/format/coded_row.cc:
#
#   bash tools/check_older_reader.sh \
#     "$(git log --diff-filter=A --format=%h -- src/format/coded_row.cc)^"
#
# The exit status is 0 only if all do as they must.
set -euo pipefail

# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly _folder="$KVTOOL_ROOT/build/older"
_failed=0

build_older() {
  local options=() launcher
  launcher="$(command -v ccache || true)"
  if [[ -n "$launcher" ]]; then options+=("-DCMAKE_CXX_COMPILER_LAUNCHER=$launcher"); fi
  rm -rf "$_folder/source"
  mkdir -p "$_folder/source"
  git -C "$KVTOOL_ROOT" archive "$1" | tar -x -C "$_folder/source"
  quietly older-configure cmake -S "$_folder/source" -B "$_folder/build" -G Ninja \
    -DKVTOOL_ENGINE=OFF -DCMAKE_BUILD_TYPE=Release "${options[@]}"
  quietly older-build cmake --build "$_folder/build" --target kvtool
}

# expect FILE STATUS [TEXT]: what `info` must answer.
expect() {
  local file=$1 wanted=$2 text=${3:-} output status=0
  output="$("$_folder/build/kvtool" info "$file" 2>&1)" || status=$?
  if ((status != wanted)) || [[ "$output" != *"$text"* ]]; then
    _failed=$((_failed + 1))
    printf 'FAILED  %s: exit status %d, not %d\n%s\n' "$(basename "$file")" "$status" "$wanted" "$output"
  else
    printf 'ok      %s: exit status %d\n' "$(basename "$file")" "$status"
  fi
}

check_main() {
  case "${1:-}" in
    "" | -h | --help)
      show_help "${BASH_SOURCE[0]}"
      return 0
      ;;
  esac
  begin_stages 2
  stage "Build kvtool as it was at $1"
  build_older "$1"
  stage "Read the frozen recordings"
  local file
  for file in "$KVTOOL_ROOT"/tests/format/data/*.kvc; do
    case "$(basename "$file")" in
      v1_1_*) expect "$file" 3 "uses format features that this kvtool does not know" ;;
      *) expect "$file" 0 ;;
    esac
  done
  end_stages
  ((_failed == 0))
}

check_main "$@"
