#!/usr/bin/env bash
# DistiLLM.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/smollm2-64M}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/smollm2-135M}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/64M_135M}"

options=(
  --type adaptive-srkl
  --lr 5e-4
  --epochs "$EPOCHS"
)
distill "${ON_POLICY_OPTIONS[@]}" "${options[@]}" "$@"
