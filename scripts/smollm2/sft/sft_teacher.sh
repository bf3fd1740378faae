#!/usr/bin/env bash
# The teacher, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/smollm2-135M}"

options=(
  --type lm
  --lr 2e-5
  --epochs "$TEACHER_EPOCHS"
  --only-save-last
)
train finetune.py "${options[@]}" "$@"
