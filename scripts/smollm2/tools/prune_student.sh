#!/usr/bin/env bash
# The student: 10 of the 30 blocks of the teacher, evenly spaced.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}"
SAVE_PATH="${SAVE_PATH:-$PRUNED_BASE}"

tool prune_depth.py --model-path "$CKPT" --num-layers 10 --save "$SAVE_PATH" "$@"
