#!/usr/bin/env bash
# The baseline without a teacher: adapters of the 7B model, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/llama2-7B}"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$ZERO_2}"

train finetune.py --type lm --batch-size 8 --seed 20 --eval-batch-size 8 --epochs 10 "$@"
