#!/usr/bin/env bash
# Where distillation starts: gpt2 after three epochs on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/init/gpt2-base}"

options=(
  --type lm
  --batch-size 8
  --gradient-accumulation-steps 1
  --eval-batch-size 10
  --lr 5e-4
  --epochs 3
)
train finetune.py "${options[@]}" "$@"
