#!/usr/bin/env bash
# The teacher: gpt2-xl, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/gpt2-xlarge}"

options=(
  --type lm
  --batch-size 4
  --gradient-accumulation-steps 2
  --eval-batch-size 16
  --lr 5e-5
  --epochs 10
  --only-save-last
  --gradient-checkpointing
)
train finetune.py "${options[@]}" "$@"
