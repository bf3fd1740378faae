#!/usr/bin/env bash
# Dolly as token ids.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$TEACHER_BASE}" # its tokenizer is used; the student has the same
RAW_DATA_DIR="$EVAL_DATA_DIR/dolly"

process_instructions "$@"
