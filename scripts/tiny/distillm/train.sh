#!/usr/bin/env bash
# DistiLLM.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/student}"

train finetune.py "${DISTILLATION[@]}" --type adaptive-srkl "${ON_POLICY[@]}" "$@"
