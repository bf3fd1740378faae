#!/usr/bin/env bash
# DistiLLM: skewed reverse KL, increasingly on the student's own answers.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/llama2-7B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/llama2-13B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/7B_13B}"

train finetune.py "${DISTILLATION[@]}" --type adaptive-srkl "${ON_POLICY[@]}" "$@"
