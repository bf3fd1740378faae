#!/usr/bin/env bash
# The baseline without a teacher: as many steps as init and distillation together.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/student-4e-3}"

options=(
  --type lm
  --lr 4e-3
  --epochs 31
)
train finetune.py "${options[@]}" "$@"
