#!/usr/bin/env bash
# DistiLLM-2 + CONTRA.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
VELOCITY_FIELD_PATH="${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field/distillm2}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/contra/distillm2/0.1B_1.5B}"

train finetune.py "${DISTILLATION[@]}" "${PAIRS[@]}" "${CONTRA[@]}" --type distillm2-v2-contra --gradual-beta "$@"
