#!/usr/bin/env bash
# The tests: bash tests/run.sh [pytest options]. Sets up the environment first where that is missing.
# Tests that take minutes are left out; `bash tests/run.sh -m slow` runs them.
# CONTRA_TEST_PRECISION, fp32 or bf16, is what `--precision auto` is in the tests; without it this CPU's own precision.
set -euo pipefail
source "$(dirname "$0")/../scripts/environment.sh"

use_environment
cd "$REPOSITORY"
exec python3 -m pytest --numprocesses auto --maxprocesses 8 -m "not slow" "$@"
