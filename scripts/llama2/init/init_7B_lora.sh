#!/usr/bin/env bash
# Where distillation starts: adapters of the 7B model after three epochs on Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/init/llama2-7B}"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$ZERO_2}"

train finetune.py --type lm --eval-batch-size 32 --epochs 3 "$@"
