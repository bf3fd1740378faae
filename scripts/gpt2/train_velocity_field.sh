#!/usr/bin/env bash
# Stage 1 of CONTRA: the flow from the student's hidden states to the teacher's, on Dolly.
set -euo pipefail
source "$(dirname "$0")/common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/velocity_field}"

train train_velocity_field.py "${FIELD[@]}" --batch-size 8 "$@"
