#!/usr/bin/env bash
# DistiLLM + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/distillm/0.1B_1.5B}"

train finetune.py "${DISTILLATION[@]}" "${CONTRA[@]}" --type adaptive-srkl-contra "${ON_POLICY[@]}" "$@"
