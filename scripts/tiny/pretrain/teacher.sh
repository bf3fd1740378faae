#!/usr/bin/env bash
# The teacher as a base model: trained on the corpus from random weights.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$MODELS/teacher}"
SAVE_PATH="${SAVE_PATH:-$TEACHER_BASE}"

options=(
  --type lm
  --data-dir @LM_DATA_DIR
  --eval-gen false
  --lr 2e-3
  --epochs 4
)
train finetune.py "${options[@]}" "$@"
