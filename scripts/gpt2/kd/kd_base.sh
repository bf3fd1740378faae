#!/usr/bin/env bash
# Classic distillation: gpt2 learns from the fine-tuned gpt2-xl by forward KL.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/kd/base}"

train finetune.py "${DISTILLATION[@]}" --type kd "$@"
