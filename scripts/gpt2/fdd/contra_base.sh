#!/usr/bin/env bash
# FDD + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/fdd/base}"

options=(
  --type rkl-contra-fdd
  --batch-size 8
  --gradient-accumulation-steps 2
)
train finetune.py "${DISTILLATION[@]}" "${CONTRA[@]}" "${options[@]}" "$@"
