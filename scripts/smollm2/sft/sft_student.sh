#!/usr/bin/env bash
# The baseline without a teacher: as many steps as init and distillation together.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/smollm2-64M}"

options=(
  --type lm
  --lr 5e-4
  --epochs "$SFT_EPOCHS"
)
train finetune.py "${options[@]}" "$@"
