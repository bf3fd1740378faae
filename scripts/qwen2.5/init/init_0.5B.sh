#!/usr/bin/env bash
# Where distillation starts: the student after three epochs on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/init/qwen2.5-0.5B}"

options=(
  --type lm
  --lr 2e-5
  --epochs 3
)
train finetune.py "${options[@]}" "$@"
