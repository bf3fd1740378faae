#!/usr/bin/env bash
# The teacher: its base model, fine-tuned on the larger set.
set -euo pipefail
given="${TEACHER_DATA_DIR:-${DATA_DIR:-}}"
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}"
DATA_DIR="${given:-$TEACHER_DATA_DIR}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/teacher}"

options=(
  --type lm
  --lr 2e-3
  --epochs 3
)
train finetune.py "${options[@]}" "$@"
