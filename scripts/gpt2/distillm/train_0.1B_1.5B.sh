#!/usr/bin/env bash
# DistiLLM: skewed reverse KL, more and more on answers of the student's own.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/0.1B_1.5B}"

options=(
  --type adaptive-srkl
  --batch-size 16
  --gradient-accumulation-steps 1
  --eval-batch-size 64
  --lr 5e-4
  --epochs 20
)
distill "${ON_POLICY_OPTIONS[@]}" "${options[@]}" "$@"
