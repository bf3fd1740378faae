#!/usr/bin/env bash
# The larger set of the teacher as token ids.
set -euo pipefail
given="${TEACHER_DATA_DIR:-${DATA_DIR:-}}"
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$MODELS/teacher}" # its tokenizer is used; the student has the same
RAW_DATA_DIR="$WORLD/teacher"
DATA_DIR="${given:-$TEACHER_DATA_DIR}"

process_instructions "$@"
