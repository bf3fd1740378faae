#!/usr/bin/env bash
# FDD.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/fdd/student}"

train finetune.py "${DISTILLATION[@]}" --type rkl-fdd --num-distill-layers "$NUM_DISTILL_LAYERS" "$@"
