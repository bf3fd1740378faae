#!/usr/bin/env bash
# DistiLLM: skewed reverse KL, increasingly on the student's own answers.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/qwen2.5-0.5B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/qwen2.5-1.5B}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/0.5B_1.5B}"

train finetune.py "${DISTILLATION[@]}" --type adaptive-srkl "${ON_POLICY[@]}" "$@"
