#!/usr/bin/env bash
# The response pairs of DistiLLM-2: teacher and student answer every prompt of Dolly.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TRAIN/init/gpt2-base}"
TEACHER_CKPT="${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}"
SAVE_PATH="${SAVE_PATH:-$PAIR_DATA_DIR}"

generate_pairs "$@"
