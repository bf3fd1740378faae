#!/usr/bin/env bash
# DistiLLM + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/distillm/0.1B_1.5B}"

options=(
  --type adaptive-srkl-contra
  --batch-size 16
  --gradient-accumulation-steps 1
  --eval-batch-size 64
  --lr 5e-4
  --epochs 20
)
distill_contra "${ON_POLICY_OPTIONS[@]}" "${options[@]}" "$@"
