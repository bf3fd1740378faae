#!/usr/bin/env bash
# Forward KL + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/llama2-7B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/llama2-13B}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/kd/7B_13B}"

train finetune.py "${DISTILLATION[@]}" "${CONTRA[@]}" --type fkl-contra "$@"
