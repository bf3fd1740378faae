#!/usr/bin/env bash
# Stage 1 of CONTRA for DistiLLM-2: on both responses of every pair.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/llama2-7B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/llama2-13B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/velocity_field/distillm2}"

train train_velocity_field.py "${FIELD[@]}" --data-dir @PAIR_DATA_DIR "$@"
