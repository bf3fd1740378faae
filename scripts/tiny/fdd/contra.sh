#!/usr/bin/env bash
# FDD + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/fdd/student}"

train finetune.py "${DISTILLATION[@]}" "${CONTRA[@]}" --type rkl-contra-fdd "$@"
