# shellcheck shell=bash
# Which Python environment the project's commands use, and whether it is complete. Sourced by install.sh and lib.sh.
# An active environment (VIRTUAL_ENV or CONDA_PREFIX) wins; otherwise it is .venv in the repository's root.

unset CDPATH # `cd` would look there, and print where it went
REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Prints one line on stderr and exits.
die() {
  printf '%s: error: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

source "$REPOSITORY/scripts/signals.sh"

active_environment() {
  printf '%s' "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
}

# environment_stamp PREFIX: what an environment is complete for: these requirements under its own Python.
environment_stamp() {
  cat "$REPOSITORY/requirements.txt" - <<<"$("$1/bin/python3" --version 2>&1)" | cksum
}

# is_installed PREFIX: install.sh has finished there, and requirements.txt has not changed since.
is_installed() {
  [[ -x "$1/bin/python3" && -f "$1/.contra-kd-installed" ]] &&
    [[ "$(environment_stamp "$1")" == "$(<"$1/.contra-kd-installed")" ]]
}

# Puts the project's environment first in PATH. Makes .venv when it is the one to use and not complete; an active
# environment is the user's: it is used as it is, and only `bash install.sh` ever changes it.
use_environment() {
  local prefix
  prefix="$(active_environment)"
  if [[ -z "$prefix" ]]; then
    prefix="$REPOSITORY/.venv"
    is_installed "$prefix" || attend bash "$REPOSITORY/install.sh" >&2
  fi
  export VIRTUAL_ENV="$prefix" PATH="$prefix/bin:$PATH"
  is_installed "$prefix" || python3 "$REPOSITORY/tools/check_install.py" --quiet >&2 ||
    die "the active environment $prefix lacks packages: run 'bash install.sh', or deactivate it to use .venv"
}
