# shellcheck shell=bash
# What the scripts of this folder share: numbered stages with their time, quiet
# commands whose output goes to a log, and clear ends. Meant to be sourced.
#
#   begin_stages 3          announces how many stages will follow
#   stage "Build"           ends the stage before and starts the next
#   stage_note "12 files"   what to show behind the running stage's time
#   quietly NAME COMMAND... runs with its output in build/logs/NAME.log; dies if it fails
#   end_stages              ends the last stage
#   die MESSAGE...          one line per argument on stderr, exit status 1

KVTOOL_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly KVTOOL_ROOT
readonly KVTOOL_LOG_DIR="$KVTOOL_ROOT/build/logs"

_stage_count=0
_stage_number=0
_stage_title=""
_stage_note=""
_stage_start=0
_stages_start=$SECONDS
_ticker_pid=""
_log_file=""

if [[ -t 2 && -z "${NO_COLOR:-}" && "${TERM:-dumb}" != dumb ]]; then
  _bold=$'\e[1m' _red=$'\e[31m' _green=$'\e[32m' _plain=$'\e[0m'
else
  _bold="" _red="" _green="" _plain=""
fi

# The comment at the top of a script is its help.
show_help() { sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$1"; }

seconds_text() {
  local seconds=$1
  if ((seconds < 60)); then
    printf '%d s' "$seconds"
  else
    printf '%d min %02d s' $((seconds / 60)) $((seconds % 60))
  fi
}

# A line that is redrawn while a command runs; on a terminal only.
_start_ticker() {
  [[ -t 2 && "${TERM:-dumb}" != dumb ]] || return 0
  local start=$SECONDS
  (
    while sleep 1; do
      last="$(tail -n 1 "$_log_file" 2>/dev/null | tr -d '\r\033' | cut -c1-60)"
      printf '\r\033[K      %s  %s' "$(seconds_text $((SECONDS - start)))" "$last" >&2
    done
  ) &
  _ticker_pid=$!
}

_stop_ticker() {
  [[ -n "$_ticker_pid" ]] || return 0
  kill "$_ticker_pid" 2>/dev/null || true
  wait "$_ticker_pid" 2>/dev/null || true
  _ticker_pid=""
  printf '\r\033[K' >&2
}

_finish() {
  local status=$?
  _stop_ticker
  if ((status != 0)) && [[ -n "$_stage_title" ]]; then
    printf '%s[%d/%d] %s: failed after %s%s\n' "$_red" "$_stage_number" "$_stage_count" \
      "$_stage_title" "$(seconds_text $((SECONDS - _stage_start)))" "$_plain" >&2
  fi
}

begin_stages() {
  _stage_count=$1
  _stage_number=0
  _stages_start=$SECONDS
  mkdir -p "$KVTOOL_LOG_DIR"
  trap _finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

_end_stage() {
  [[ -n "$_stage_title" ]] || return 0
  printf '      %sdone%s in %s%s\n' "$_green" "$_plain" \
    "$(seconds_text $((SECONDS - _stage_start)))" "${_stage_note:+ ($_stage_note)}" >&2
  _stage_title=""
}

stage() {
  _end_stage
  _stage_number=$((_stage_number + 1))
  _stage_title=$1
  _stage_note=""
  _stage_start=$SECONDS
  printf '%s[%d/%d] %s%s\n' "$_bold" "$_stage_number" "$_stage_count" "$_stage_title" "$_plain" >&2
}

stage_note() { _stage_note=$1; }

end_stages() {
  _end_stage
  printf 'All stages took %s.\n' "$(seconds_text $((SECONDS - _stages_start)))" >&2
}

die() {
  _stop_ticker
  printf '%s\n' "$@" >&2
  exit 1
}

# Runs a command with its output in build/logs/NAME.log and returns its status.
logged() {
  local name=$1 status=0
  shift
  _log_file="$KVTOOL_LOG_DIR/$name.log"
  printf '+ %s\n' "$*" >"$_log_file"
  _start_ticker
  "$@" >>"$_log_file" 2>&1 </dev/null || status=$?
  _stop_ticker
  return "$status"
}

show_log_tail() {
  printf -- '--- last lines of %s\n' "$_log_file" >&2
  tail -n "${1:-40}" "$_log_file" >&2
  printf -- '---\n' >&2
}

# quietly NAME COMMAND...: as logged, but a failure ends the script.
quietly() {
  local name=$1 status=0
  logged "$@" || status=$?
  ((status == 0)) && return 0
  show_log_tail
  shift
  die "Failed with exit status $status: $*" "The whole log: $KVTOOL_LOG_DIR/$name.log"
}

# Settings of the caller's shell that change numeric results or thread counts
# have no place in a demonstration or a test.
neutral_environment() {
  local name
  for name in $(compgen -e); do
    case $name in
      OMP_* | GOMP_* | KMP_* | MKL_* | ONEDNN_* | DNNL_* | ATEN_CPU_CAPABILITY | TORCH_ALLOW_TF32*)
        unset "$name"
        ;;
    esac
  done
  export PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1
  # ccache refuses precompiled headers without these.
  export CCACHE_SLOPPINESS="${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}"
}

# The interpreter whose torch the engine links: as build/ was configured, or as
# tools/setup.sh chose it.
chosen_python() {
  local configured cache="$KVTOOL_ROOT/build/CMakeCache.txt"
  configured="$(sed -n 's/^KVTOOL_PYTHON:[A-Z]*=//p' "$cache" 2>/dev/null || true)"
  if [[ -n "${KVTOOL_PYTHON:-$configured}" ]]; then
    printf '%s' "${KVTOOL_PYTHON:-$configured}"
  elif [[ -f "$KVTOOL_ROOT/build/.python" ]]; then
    cat "$KVTOOL_ROOT/build/.python"
  else
    die "the engine needs torch, and no Python is chosen: run bash tools/setup.sh"
  fi
}
