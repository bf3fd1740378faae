#!/usr/bin/env bash
# Classic distillation by forward KL, with fresh adapters.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/openllama2-7B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/kd/3B_7B}"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$ZERO_2}"

train finetune.py "${DISTILLATION[@]}" --type kd --lr 1e-5 "$@"
