#!/usr/bin/env bash
# Stage 1 of CONTRA: the flow from the student's hidden states to the teacher's, on Dolly.
set -euo pipefail
source "$(dirname "$0")/common.sh"

CKPT="${CKPT:-$TRAIN/init/qwen2.5-0.5B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/qwen2.5-1.5B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/velocity_field}"

train train_velocity_field.py "${FIELD[@]}" "$@"
