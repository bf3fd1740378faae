#!/usr/bin/env bash
# Retrains the pruned student on the corpus: without 20 of its blocks it writes gibberish.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$PRUNED_BASE}"
SAVE_PATH="${SAVE_PATH:-$STUDENT_BASE}"

options=(
  --type lm
  --data-dir @LM_DATA_DIR
  --eval-gen false
  --train-num "$HEAL_CHUNKS"
  --lr 6e-4
  --warmup-iters 20
  --epochs 1
)
train finetune.py "${options[@]}" "$@"
