#!/usr/bin/env bash
# The student as a base model: trained on the corpus from random weights.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$MODELS/student}"
SAVE_PATH="${SAVE_PATH:-$STUDENT_BASE}"

options=(
  --type lm
  --data-dir @LM_DATA_DIR
  --eval-gen false
  --lr 4e-3
  --epochs 6
)
train finetune.py "${options[@]}" "$@"
