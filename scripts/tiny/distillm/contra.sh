#!/usr/bin/env bash
# DistiLLM + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/distillm/student}"

options=(
  --type adaptive-srkl-contra
  --init-threshold 0.3 # all three kinds of rows occur in a short run
  --lr 4e-3
  --epochs 26
)
distill_contra "${ON_POLICY_OPTIONS[@]}" "${options[@]}" "$@"
