#!/usr/bin/env bash
# DistiLLM.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/student}"

options=(
  --type adaptive-srkl
  --init-threshold 0.3 # all three kinds of rows occur in a short run
  --lr 4e-3
  --epochs 26
)
distill "${ON_POLICY_OPTIONS[@]}" "${options[@]}" "$@"
