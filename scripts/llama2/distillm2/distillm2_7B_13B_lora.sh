#!/usr/bin/env bash
# DistiLLM-2: raised on the teacher's response, lowered on the student's own.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/llama2-7B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/llama2-13B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm2/7B_13B}"

options=(
  --type distillm2-v2
  --gradual-beta
  --batch-size 8
  --gradient-accumulation-steps 2
  --generate-sgo-interval 4
  --seed 31
)
distill_pairs "${options[@]}" "$@"
