#!/usr/bin/env bash
# Installs everything: bash install.sh
# Into the active environment (venv or conda) if there is one, else into .venv, which it creates. Works with and without
# CUDA. A second run has nothing to do. PYTHON names the interpreter that makes .venv (default python3).
set -euo pipefail
source "$(dirname "$0")/scripts/environment.sh"

PYTHON="${PYTHON:-python3}"
prefix="$(active_environment)"
[[ -z "$prefix" ]] || PYTHON="$prefix/bin/python3"
prefix="${prefix:-$REPOSITORY/.venv}"

check_python() {
  command -v "$PYTHON" >/dev/null ||
    die "there is no '$PYTHON': install Python 3.11 or newer, or name one: PYTHON=/path/to/python3 bash install.sh"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "'$PYTHON' is $("$PYTHON" --version 2>&1), but 3.11 or newer is needed: PYTHON=/path/to/python3 bash install.sh"
}

create_environment() {
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    die "'$PYTHON' cannot make an environment: install its venv package (Debian: apt-get install python3-venv)"
  "$PYTHON" -m venv "$prefix"
}

install_packages() {
  local progress=()
  [[ -t 1 ]] || progress=(--quiet)
  "$prefix/bin/python3" -m pip --version >/dev/null 2>&1 ||
    die "the environment $prefix has no pip: run '$prefix/bin/python3 -m ensurepip'"
  echo "Installing requirements.txt into $prefix; this takes a few minutes."
  # DeepSpeed compiles its CUDA operators when they are first used, if ever: compile none now.
  DS_BUILD_OPS=0 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    attend "$prefix/bin/python3" -m pip install "${progress[@]}" --requirement "$REPOSITORY/requirements.txt"
  environment_stamp "$prefix" >"$prefix/.contra-kd-installed"
}

if is_installed "$prefix"; then
  echo "$prefix is up to date."
else
  check_python
  [[ -n "$(active_environment)" ]] || create_environment
  install_packages
fi
"$prefix/bin/python3" "$REPOSITORY/tools/check_install.py"
