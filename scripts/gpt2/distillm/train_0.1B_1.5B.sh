#!/usr/bin/env bash
# DistiLLM: skewed reverse KL, increasingly on the student's own answers.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/0.1B_1.5B}"

train finetune.py "${DISTILLATION[@]}" --type adaptive-srkl "${ON_POLICY[@]}" "$@"
