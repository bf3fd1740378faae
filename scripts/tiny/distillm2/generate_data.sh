#!/usr/bin/env bash
# The response pairs of DistiLLM-2: teacher and student answer every prompt.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
SAVE_PATH="${SAVE_PATH:-$PAIR_DATA_DIR}"

generate_pairs "$@"
