#!/usr/bin/env bash
# The teacher: its base model, fine-tuned on the larger set.
set -euo pipefail
given="${TEACHER_DATA_DIR:-${DATA_DIR:-}}"
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}"
DATA_DIR="${given:-$TEACHER_DATA_DIR}"
SAVE_PATH="${SAVE_PATH:-$TRAIN/sft/teacher}"
require_folder DATA_DIR "make it with scripts/tiny/tools/process_data_teacher.sh, or set TEACHER_DATA_DIR"

options=(
  --type lm
  --lr 2e-3
  --epochs 3
)
finetune "${options[@]}" "$@"
