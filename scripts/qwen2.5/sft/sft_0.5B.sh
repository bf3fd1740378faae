#!/usr/bin/env bash
# The baseline without a teacher, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/qwen2.5-0.5B}"

options=(
  --type lm
  --lr 2e-5
  --epochs 10
)
train finetune.py "${options[@]}" "$@"
