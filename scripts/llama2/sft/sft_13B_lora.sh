#!/usr/bin/env bash
# The teacher: adapters of the 13B model, fine-tuned on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/llama2-13B}"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$ZERO_2}"

train finetune.py --type lm --eval-batch-size 32 --epochs 10 "$@"
