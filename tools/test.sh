#!/usr/bin/env bash
# Builds kvtool and runs every test, C++ and Python.
#
#   bash tools/test.sh [--quick]
#
#   --quick   the full build and its tests only: no build without torch, no
#             sanitizers and no fuzzing
#
# Environment: KVTOOL_WERROR=ON turns warnings into errors; KVTOOL_PYTHON names
# the Python whose torch is used (tools/setup.sh). Every suite is run even if
# one before it failed. The last line is "N passed, N failed"; the exit status is
# 0 only if nothing failed. Logs: build/logs.
set -euo pipefail

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

_passed=0
_failed=0
_skipped=0

# suite NAME JUNIT RESULTS COMMAND...: runs tests that write JUNIT, and their programs to
# the folder RESULTS, and adds their counts. A runner that breaks without failing a test
# counts as one failure, and so does one that finds no test.
suite() {
  local name=$1 junit=$2 results=$3 status=0 passed=0 failed=0 skipped=0
  shift 3
  rm -rf "$junit" "$results"
  logged "$name" "$@" || status=$?
  if [[ -f "$junit" ]]; then
    read -r passed failed skipped < <("$KVTOOL_PYTHON" "$KVTOOL_ROOT/tools/count_tests.py" \
      --results "$results" "$junit")
  fi
  if ((failed == 0 && (status != 0 || passed == 0))); then failed=1; fi
  if ((failed > 0)); then show_log_tail 80; fi
  _passed=$((_passed + passed))
  _failed=$((_failed + failed))
  _skipped=$((_skipped + skipped))
  stage_note "$passed passed, $failed failed, $skipped skipped"
}

# run_ctest FOLDER [ctest option...]
run_ctest() {
  local folder=$1 junit="$KVTOOL_LOG_DIR/$1-junit.xml"
  shift
  suite "$folder-ctest" "$junit" "$KVTOOL_ROOT/$folder/tests/results" env UBSAN_OPTIONS=print_stacktrace=1 \
    ctest --test-dir "$KVTOOL_ROOT/$folder" --output-on-failure --no-tests=error \
    --parallel "$(nproc)" --output-junit "$junit" "$@"
}

# A file's tests stay in one process, with what they share; models are exported once for all
# processes (tests/export_cache.py). Files begin in the order of tests/conftest.py.
run_pytest() {
  local junit="$KVTOOL_LOG_DIR/pytest-junit.xml"
  suite pytest "$junit" "$KVTOOL_LOG_DIR/pytest-results" env PYTHONPATH="$KVTOOL_ROOT/python${PYTHONPATH:+:$PYTHONPATH}" \
    "$KVTOOL_PYTHON" -m pytest -q -p no:cacheprovider --numprocesses auto --maxprocesses 4 \
    --dist loadfile --no-loadscope-reorder "$KVTOOL_ROOT/tests" --junit-xml "$junit"
}

# Counts as one test. tools/setup.sh installs clang++ where it can.
run_fuzzing() {
  if ! command -v clang++ >/dev/null; then
    _skipped=$((_skipped + 1))
    stage_note "skipped: no clang++"
  elif logged fuzzing bash "$KVTOOL_ROOT/tools/fuzz.sh" 30; then
    _passed=$((_passed + 1))
    stage_note "no input fails"
  else
    _failed=$((_failed + 1))
    show_log_tail 40
    stage_note "the build or an input fails"
  fi
}

# Clang, if it is there, compiles with sanitizers in half the time, and warns of other
# things. The fuzzers are part of that build.
prefer_clang() {
  _sanitizer_preset=asan
  if command -v clang++ >/dev/null; then
    export CXX=clang++
    _sanitizer_preset=fuzz
  fi
}

# build TARGETS FOLDER [cmake option...]: fails after showing the end of the log.
build() {
  local targets=$1 folder=$2
  shift 2
  if logged "$folder" configure_and_build "$targets" "$folder" "${_werror[@]}" "$@"; then return 0; fi
  show_log_tail 60
  stage_note "the build failed"
  _failed=$((_failed + 1))
  return 1
}

test_main() {
  local quick=0
  case "${1:-}" in
    --quick) quick=1 ;;
    "") ;;
    -h | --help)
      show_help "${BASH_SOURCE[0]}"
      return 0
      ;;
    *) die "test.sh: unknown option $1" ;;
  esac
  _werror=("-DKVTOOL_WERROR=${KVTOOL_WERROR:-OFF}")

  neutral_environment
  export KVTOOL_TEST_TOOLS=1  # read by setup.sh
  begin_stages $((KVTOOL_SETUP_STAGES + 3 + (quick ? 0 : 5)))
  setup_stages

  stage "Build"
  if build all build -DKVTOOL_ENGINE=ON -DKVTOOL_UNITY=ON "-DKVTOOL_PYTHON=$KVTOOL_PYTHON"; then
    stage "C++ tests"
    run_ctest build
  fi
  stage "Python and end-to-end tests"
  run_pytest
  if ((!quick)); then
    prefer_clang
    # One build shows both: that everything but the engine builds without torch,
    # and that it is clean.
    stage "Build without torch, with AddressSanitizer and UndefinedBehaviorSanitizer"
    if build all build-asan --preset "$_sanitizer_preset" -DKVTOOL_UNITY=ON; then
      stage "C++ tests without torch, with sanitizers"
      run_ctest build-asan
    fi
    # The rooms that have threads of their own outside of torch.
    stage "Build of the background thread and the recordings, with ThreadSanitizer"
    if build "kvtool_base_test kvtool_format_test" build-tsan --preset tsan; then
      stage "C++ tests with ThreadSanitizer"
      # Without what changes every byte of a file, on one thread and for minutes.
      GTEST_FILTER='-*Exhaustive*' run_ctest build-tsan --label-regex '^(base|format)$'
    fi
    stage "Fuzzing what reads untrusted files"
    run_fuzzing
  fi
  end_stages

  if ((_skipped > 0)); then printf '%d skipped\n' "$_skipped" >&2; fi
  printf '%d passed, %d failed\n' "$_passed" "$_failed"
  ((_failed == 0))
}

test_main "$@"
