#!/usr/bin/env bash
# DistiLLM-2.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/student}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/teacher}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm2/student}"

train finetune.py "${DISTILLATION[@]}" "${PAIRS[@]}" --type distillm2-v2 --gradual-beta "$@"
