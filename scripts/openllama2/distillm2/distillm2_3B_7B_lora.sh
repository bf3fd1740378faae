#!/usr/bin/env bash
# DistiLLM-2: raises the probability of the teacher's response, lowers that of the student's own.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/openllama2-3B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/openllama2-7B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm2/3B_7B}"

train finetune.py "${DISTILLATION[@]}" "${PAIRS[@]}" --type distillm2-v2 "$@"
