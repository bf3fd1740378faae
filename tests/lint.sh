#!/usr/bin/env bash
# Style, types and shell scripts: bash tests/lint.sh
set -euo pipefail
source "$(dirname "$0")/../scripts/environment.sh"

use_environment
cd "$REPOSITORY"
ruff check .
ruff format --check .
mypy
find install.sh .ci/run scripts runs tests -type f \( -name '*.sh' -o -name run \) -print0 | xargs -0 shellcheck
