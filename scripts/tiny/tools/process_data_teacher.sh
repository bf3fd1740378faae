#!/usr/bin/env bash
# The larger set of the teacher as token ids.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$MODELS/teacher}" # whose tokenizer; the student has the same
RAW_DATA_DIR="$WORLD/teacher"
DATA_DIR="$TEACHER_DATA_DIR"

process_instructions "$@"
