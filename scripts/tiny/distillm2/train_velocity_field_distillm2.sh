#!/usr/bin/env bash
# Stage 1 of CONTRA for DistiLLM-2: on both responses of every pair.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/velocity_field/distillm2}"

train train_velocity_field.py "${FIELD[@]}" --data-dir @PAIR_DATA_DIR "$@"
