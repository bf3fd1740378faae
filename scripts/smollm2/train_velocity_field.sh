#!/usr/bin/env bash
# Stage 1 of CONTRA: the flow from the student's hidden states to the teacher's.
set -euo pipefail
source "$(dirname "$0")/common.sh"

CKPT="${CKPT:-$TRAIN/init/smollm2-64M}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/smollm2-135M}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/velocity_field}"

train train_velocity_field.py "${FIELD[@]}" "$@"
