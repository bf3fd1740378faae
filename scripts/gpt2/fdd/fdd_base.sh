#!/usr/bin/env bash
# FDD: reverse KL, plus what the scheduled layers would predict and how that changes from layer to layer.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/fdd/base}"

options=(
  --type rkl-fdd
  --num-distill-layers "$NUM_DISTILL_LAYERS"
  --batch-size 8
  --gradient-accumulation-steps 2
)
train finetune.py "${DISTILLATION[@]}" "${options[@]}" "$@"
