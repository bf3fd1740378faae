#!/usr/bin/env bash
# DistiLLM.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/smollm2-64M}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/smollm2-135M}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm/64M_135M}"

train finetune.py "${DISTILLATION[@]}" --type adaptive-srkl "${ON_POLICY[@]}" "$@"
