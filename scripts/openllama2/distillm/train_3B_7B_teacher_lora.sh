#!/usr/bin/env bash
# DistiLLM: skewed reverse KL, increasingly on the student's own answers.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/openllama2-3B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/openllama2-7B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/3B_7B}"

train finetune.py "${DISTILLATION[@]}" --type adaptive-srkl --eval-batch-size 20 "${ON_POLICY[@]}" "$@"
