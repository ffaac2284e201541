#!/usr/bin/env bash
# Builds the engine and its tests with a sanitizer and runs them: the proof that tools/test.sh,
# whose sanitizer builds leave torch out, does not give. Not part of CI: minutes of building.
#
#   bash tools/sanitize_engine.sh thread|address [GTEST_FILTER]
#
# torch itself is not instrumented: it runs on one thread here, so that its own pool is no noise,
# and leaks are not looked for, nor mismatches of new and free: a test counts what new gives.
# thread: by default the tests of what has threads of its own.
set -euo pipefail

# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

sanitizer=${1:-}
case $sanitizer in
  thread) filter=${2:-'PagedPasses.*:PageMover*:PacedLink*:SinkPump*:*PagedIsTheSame*'} options=(-O1) ;;
  address) filter=${2:-'-StepCost*:*StepCost*'} options=(-O1) sanitizer=address,undefined ;;
  *) die "sanitize_engine.sh: say thread or address" ;;
esac

folder="build-engine-${1}"
cd "$KVTOOL_ROOT"
cmake -S . -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-g1 ${options[*]}" \
  -DKVTOOL_ENGINE=ON -DKVTOOL_UNITY=ON "-DKVTOOL_SANITIZE=$sanitizer" \
  "-DKVTOOL_PYTHON=$(chosen_python)"
cmake --build "$folder" --target kvtool_engine_test
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# torch counts the users of what a view was taken of in code that the sanitizer does not see.
printf 'race:torch::autograd::DifferentiableViewMeta\n' >"$folder/thread-suppressions"
export TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1 suppressions=$PWD/$folder/thread-suppressions"
export ASAN_OPTIONS="detect_leaks=0 detect_container_overflow=0 alloc_dealloc_mismatch=0"
export UBSAN_OPTIONS="print_stacktrace=1 halt_on_error=1"
exec "$folder/tests/kvtool_engine_test" --gtest_brief=1 "--gtest_filter=$filter"
