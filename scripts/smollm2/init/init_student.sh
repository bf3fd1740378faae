#!/usr/bin/env bash
# Where distillation starts: the pruned student after some epochs of fine-tuning.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/init/smollm2-64M}"

options=(
  --type lm
  --lr 5e-4
  --epochs "$INIT_EPOCHS"
)
train finetune.py "${options[@]}" "$@"
