#!/usr/bin/env bash
# DistiLLM + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/smollm2-64M}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/smollm2-135M}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/distillm/64M_135M}"

train finetune.py "${DISTILLATION[@]}" "${CONTRA[@]}" --type adaptive-srkl-contra "${ON_POLICY[@]}" "$@"
