#!/usr/bin/env bash
# Builds the engine against other builds of torch, by default two of PyTorch's own CUDA
# wheels, and shows on this machine's CPU that it works there: the engine's C++ tests, a
# short save and replay of a tiny model, and a clear refusal of --device cuda where there
# is no GPU.
#
#   bash tools/check_torch_builds.sh [VERSION...]    default: 2.14.1 2.11.0
#
# A CUDA build of torch loads only with NVIDIA's libraries, which its wheel names as
# requirements: they are downloaded with it, about 3 GB for each version, and unpacked
# beside it into a folder of their own (5 GB). No installed package is touched. Not part
# of the CI.
#
# Environment: KVTOOL_TORCH_CACHE: where downloads are kept (default
# ~/.cache/kvtool/torch); KVTOOL_BUILD_JOBS: parallel compilations (default: all cores);
# KVTOOL_BINARY: a kvtool to use instead of building one (it links no torch);
# KVTOOL_PYTHON, as tools/setup.sh says, exports the tiny model. Builds are in
# build-torch-VERSION, logs in build/logs.
set -euo pipefail

# shellcheck source=tools/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

readonly TORCH_CACHE=${KVTOOL_TORCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvtool/torch}
readonly STAGES_PER_VERSION=5

site_of() { printf '%s/%s/site' "$TORCH_CACHE" "$1"; }
wheel_of() { printf '%s' "$TORCH_CACHE/$1"/torch-*.whl; }

# The requirements of a torch wheel that are NVIDIA's.
cuda_requirements() {
  "$KVTOOL_PYTHON" - "$1" <<'PYTHON'
import re
import sys
import zipfile

wheel = zipfile.ZipFile(sys.argv[1])
metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in wheel.read(metadata).decode().splitlines():
    if re.match(r"Requires-Dist: (nvidia-|cuda-toolkit)", line) and "extra ==" not in line:
        print(line.removeprefix("Requires-Dist: "))
PYTHON
}

# download VERSION: the wheel and what it needs of NVIDIA's, in $TORCH_CACHE/VERSION.
download() {
  local folder=$TORCH_CACHE/$1
  mkdir -p "$folder"
  if [[ ! -f "$folder/complete" ]]; then
    quietly "torch-$1-download" "$KVTOOL_PYTHON" -m pip download --no-deps "torch==$1" -d "$folder"
    cuda_requirements "$(wheel_of "$1")" >"$folder/cuda.txt"
    quietly "torch-$1-download-cuda" "$KVTOOL_PYTHON" -m pip download -r "$folder/cuda.txt" \
      -d "$folder"
    touch "$folder/complete"
  fi
  stage_note "$(du -ch "$folder"/*.whl | tail -n 1 | cut -f1) in $folder"
}

extract_wheels() {
  "$KVTOOL_PYTHON" - "$@" <<'PYTHON'
import sys
import zipfile

for wheel in sys.argv[2:]:
    zipfile.ZipFile(wheel).extractall(sys.argv[1])
PYTHON
}

# unpack VERSION: all wheels into one folder, as an installation would lie.
unpack() {
  local site
  site="$(site_of "$1")"
  if [[ ! -f "$site/complete" ]]; then
    rm -rf "$site"
    mkdir -p "$site"
    extract_wheels "$site" "$TORCH_CACHE/$1"/*.whl
    touch "$site/complete"
  fi
  stage_note "$(du -sh "$site" | cut -f1)"
}

compile() {
  local folder=build-torch-$1
  # A torch found through PYTHONPATH goes before an installed one.
  PYTHONPATH="$(site_of "$1")" quietly "torch-$1-configure" configure "$folder" \
    -DKVTOOL_ENGINE=ON -DKVTOOL_UNITY=ON "-DKVTOOL_PYTHON=$KVTOOL_PYTHON"
  quietly "torch-$1-build" cmake --build "$folder" \
    ${KVTOOL_BUILD_JOBS:+--parallel "$KVTOOL_BUILD_JOBS"} \
    --target kvtool_engine kvtool_engine_test
  stage_note "$(du -h "$folder/libkvtool_engine.so" | cut -f1) $folder/libkvtool_engine.so"
}

run_engine_tests() {
  local log=$KVTOOL_LOG_DIR/torch-$1-ctest.log
  quietly "torch-$1-ctest" ctest --test-dir "build-torch-$1" --output-on-failure \
    --no-tests=error --label-regex '^engine$'
  stage_note "$(grep -E 'tests passed' "$log")"
}

# Without a GPU, asking for one must end with exit status 5 and say why.
check_cuda_refused() {
  local version=$1 status=0
  shift
  logged "torch-$version-cuda" "$@" --device cuda || status=$?
  if compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
    ((status == 0)) || die "torch $version: --device cuda ended with exit status $status" \
      "The whole log: $_log_file"
    stage_note "save and replay on the CPU; the GPU generates too"
    return
  fi
  if ((status != 5)) || ! grep -q 'CUDA' "$_log_file"; then
    show_log_tail
    die "torch $version: --device cuda without a GPU ended with exit status $status, not 5"
  fi
  stage_note "save and replay on the CPU; $(sed -n 's/^kvtool: error: //p' "$_log_file" | head -n 1)"
}

# Export, save and replay with this torch.
run_model() {
  local version=$1 kvtool=${KVTOOL_BINARY:-build/kvtool} work=build-torch-$1/check
  local model=$work/tiny.pt path
  path="$(site_of "$1"):$KVTOOL_ROOT/python"
  rm -rf "$work"
  mkdir -p "$work"
  printf '{"token_ids": [5, 17, 42, 9, 33]}\n{"token_ids": [61, 3]}\n' >"$work/prompts.jsonl"
  local generation=(--model "$model" --prompts "$work/prompts.jsonl" --max-new-tokens 16
    --batch-size 2 --ignore-eos)
  PYTHONPATH=$path quietly "torch-$version-model" "$KVTOOL_PYTHON" -m kvtool.tiny_models \
    --family llama --output "$work/model"
  PYTHONPATH=$path quietly "torch-$version-export" "$KVTOOL_PYTHON" tools/export_model.py \
    --model "$work/model" --dtype bfloat16 --output "$model"
  export KVTOOL_ENGINE_LIBRARY=$KVTOOL_ROOT/build-torch-$version/libkvtool_engine.so
  quietly "torch-$version-save" "$kvtool" save "${generation[@]}" --device cpu \
    --out "$work/recordings" --json "$work/save.json"
  grep -q "\"torch_version\": \"$version" "$work/save.json" || die \
    "The engine of build-torch-$version runs another torch ($work/save.json)."
  quietly "torch-$version-replay" "$kvtool" replay --from CPU --ref-dir "$work/recordings" \
    --model "$model" --device cpu --gate same-device
  check_cuda_refused "$version" "$kvtool" generate "${generation[@]}"
  unset KVTOOL_ENGINE_LIBRARY
}

check_version() {
  stage "torch $1: download"
  download "$1"
  stage "torch $1: unpack"
  unpack "$1"
  stage "torch $1: build the engine"
  compile "$1"
  stage "torch $1: C++ tests of the engine"
  run_engine_tests "$1"
  stage "torch $1: export, save and replay a tiny model"
  run_model "$1"
}

check_main() {
  local version versions=("$@")
  case "${1:-}" in
    "") versions=(2.14.1 2.11.0) ;;
    -h | --help)
      show_help "${BASH_SOURCE[0]}"
      return 0
      ;;
    -*) die "check_torch_builds.sh: unknown option $1" ;;
  esac
  cd "$KVTOOL_ROOT"
  neutral_environment
  shopt -s nullglob
  begin_stages $((KVTOOL_SETUP_STAGES + 1 + ${#versions[@]} * STAGES_PER_VERSION))
  setup_stages
  # The binary links no torch: one serves every engine.
  stage "Build kvtool"
  if [[ -n "${KVTOOL_BINARY:-}" ]]; then
    stage_note "$KVTOOL_BINARY is used instead"
  else
    quietly build configure_and_build kvtool build -DKVTOOL_ENGINE=ON -DKVTOOL_UNITY=ON \
      "-DKVTOOL_PYTHON=$KVTOOL_PYTHON"
  fi
  for version in "${versions[@]}"; do check_version "$version"; done
  end_stages
}

check_main "$@"
