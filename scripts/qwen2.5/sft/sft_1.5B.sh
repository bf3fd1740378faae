#!/usr/bin/env bash
# The teacher, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/qwen2.5-1.5B}"

options=(
  --type lm
  --batch-size 4
  --gradient-accumulation-steps 4
  --lr 1e-5
  --epochs 3
  --only-save-last
  --gradient-checkpointing
)
train finetune.py "${options[@]}" "$@"
