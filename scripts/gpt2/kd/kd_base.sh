#!/usr/bin/env bash
# Classic distillation: gpt2 learns from the fine-tuned gpt2-xl by forward KL.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/kd/base}"

options=(
  --type kd
  --batch-size 16
  --gradient-accumulation-steps 1
  --eval-batch-size 64
  --lr 5e-4
  --epochs 20
)
distill "${options[@]}" "$@"
