#!/usr/bin/env bash
# The baseline without a teacher: adapters of the 3B model, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/openllama2-3B}"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$ZERO_2}"

train finetune.py --type lm --eval-batch-size 32 --epochs 10 "$@"
