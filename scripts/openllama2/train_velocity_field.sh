#!/usr/bin/env bash
# Stage 1 of CONTRA: the flow from the student's hidden states to the teacher's, on Dolly.
set -euo pipefail
source "$(dirname "$0")/common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/openllama2-3B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/openllama2-7B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/velocity_field}"

train train_velocity_field.py "${FIELD[@]}" "$@"
