#!/usr/bin/env bash
# FDD: reverse KL, plus what the scheduled layers would predict and how that changes from layer to layer.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/openllama2-3B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/openllama2-7B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/fdd/3B_7B}"

train finetune.py "${DISTILLATION[@]}" --type rkl-fdd --num-distill-layers "$NUM_DISTILL_LAYERS" "$@"
