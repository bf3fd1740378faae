#!/usr/bin/env bash
# The baseline without a teacher: gpt2, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/gpt2-base}"

options=(
  --type lm
  --batch-size 16
  --gradient-accumulation-steps 1
  --eval-batch-size 32
  --lr 5e-4
  --epochs 20
)
train finetune.py "${options[@]}" "$@"
