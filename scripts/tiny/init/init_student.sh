#!/usr/bin/env bash
# Where distillation starts: the student base model after a few epochs of fine-tuning.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/init/student}"

options=(
  --type lm
  --lr 4e-3
  --epochs 5
)
train finetune.py "${options[@]}" "$@"
