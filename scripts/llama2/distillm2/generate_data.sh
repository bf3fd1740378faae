#!/usr/bin/env bash
# The response pairs of DistiLLM-2: teacher and student answer every prompt of Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}"
PEFT_CKPT="${PEFT_CKPT-$TRAIN/init/llama2-7B}"
TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
TEACHER_PEFT_CKPT="${TEACHER_PEFT_CKPT-$TRAIN/sft/llama2-13B}"
SAVE_PATH="${SAVE_PATH:-$PAIR_DATA_DIR}"

generate_pairs "$@"
