#!/usr/bin/env bash
# Fuzzes what reads untrusted files, from seeds that it makes first.
#
#   bash tools/fuzz.sh [SECONDS [TARGET...]]
#
# SECONDS (default 60) of one core are shared by the targets (default: all): recording,
# packed, safetensors, json, config. One line each: executions and coverage. Inputs that
# were worth keeping stay in build-asan/corpus/TARGET for the next run, inputs that fail
# in build-asan/findings; the exit status is 1 if there is one. Needs clang++ with
# libFuzzer (Debian: clang, libclang-rt-14-dev).
set -euo pipefail

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

readonly FUZZ_BUILD="$KVTOOL_ROOT/build-asan"
readonly FUZZ_TARGETS=(recording packed safetensors json config)
# The longest input in bytes: a dozen records; what is found needs no more.
readonly FUZZ_MAX_LENGTH=16384

seed_folder() {
  case $1 in
    config) printf '%s' "$KVTOOL_ROOT/configs" ;;
    *) printf '%s' "$FUZZ_BUILD/seeds/$1" ;;
  esac
}

# An input that fails only once failed because the machine stood still: the timeout
# is one of the wall clock.
fails_again() {
  local target=$1 input=$2
  ! "$FUZZ_BUILD/fuzz/kvtool_fuzz_$target" -timeout=10 -rss_limit_mb=1024 \
    -malloc_limit_mb=128 "$input" >"$input.log" 2>&1
}

# fuzz TARGET SECONDS
fuzz() {
  local target=$1 seconds=$2 corpus="$FUZZ_BUILD/corpus/$1" findings="$FUZZ_BUILD/findings"
  local log="$findings/$1.log" failed=0 input
  mkdir -p "$corpus" "$findings"
  UBSAN_OPTIONS=print_stacktrace=1 "$FUZZ_BUILD/fuzz/kvtool_fuzz_$target" \
    -max_total_time="$seconds" -max_len="$FUZZ_MAX_LENGTH" -timeout=10 -rss_limit_mb=1024 \
    -malloc_limit_mb=128 -print_final_stats=1 -artifact_prefix="$findings/$target-" \
    "$corpus" "$(seed_folder "$target")" >"$log" 2>&1 || true
  for input in "$findings/$target"-{crash,timeout,oom,leak}-*; do
    [[ -f "$input" && "$input" != *.log ]] || continue
    if fails_again "$target" "$input"; then
      printf '%s: %s\n' "$target" "$input" >&2
      failed=1
    fi
  done
  # A target that could not even start has found nothing and shown nothing.
  if ! grep -aq 'stat::number_of_executed_units' "$log"; then
    tail -n 20 "$log" >&2
    failed=1
  fi
  printf '%-12s %s executions, %s edges covered\n' "$target" \
    "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" \
    "$(grep -ao 'cov: [0-9]*' "$log" | tail -n 1 | cut -c6-)"
  return $failed
}

# fuzz_all SECONDS TARGET...: one target on each core at a time.
fuzz_all() {
  local seconds=$((($1 + $# - 2) / ($# - 1))) status=0 running=0 target
  shift
  for target in "$@"; do
    if ((running == $(nproc))); then
      wait -n || status=1
      running=$((running - 1))
    fi
    fuzz "$target" "$seconds" &
    running=$((running + 1))
  done
  for (( ; running > 0; --running)); do wait -n || status=1; done
  return $status
}

fuzz_main() {
  case "${1:-}" in
    -h | --help)
      show_help "${BASH_SOURCE[0]}"
      return 0
      ;;
  esac
  local seconds=${1:-60} status=0
  shift || true
  local targets=("${FUZZ_TARGETS[@]}")
  if (($# > 0)); then targets=("$@"); fi
  command -v clang++ >/dev/null || die "fuzz.sh: clang++ is missing (Debian: clang, libclang-rt-14-dev)"
  mkdir -p "$KVTOOL_LOG_DIR" "$FUZZ_BUILD"
  configure_and_build kvtool_fuzzers build-asan --preset fuzz >"$KVTOOL_LOG_DIR/build-fuzz.log" 2>&1 ||
    { tail -n 40 "$KVTOOL_LOG_DIR/build-fuzz.log" >&2; die "fuzz.sh: the build failed"; }
  "$FUZZ_BUILD/fuzz/kvtool_fuzz_seeds" "$FUZZ_BUILD/seeds"
  fuzz_all "$seconds" "${targets[@]}" || status=1
  return $status
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then fuzz_main "$@"; fi
