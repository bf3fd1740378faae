#!/usr/bin/env bash
# DistiLLM + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/qwen2.5-0.5B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/qwen2.5-1.5B}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/distillm/0.5B_1.5B}"

train finetune.py "${DISTILLATION[@]}" "${CONTRA[@]}" --type adaptive-srkl-contra "${ON_POLICY[@]}" "$@"
