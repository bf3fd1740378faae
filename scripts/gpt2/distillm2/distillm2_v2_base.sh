#!/usr/bin/env bash
# DistiLLM-2, version 2: raises the probability of the teacher's response, lowers that of the student's own.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/distillm2/v2_base}"

train finetune.py "${DISTILLATION[@]}" "${PAIRS[@]}" --type distillm2-v2 --gradual-beta "$@"
