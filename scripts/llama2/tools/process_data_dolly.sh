#!/usr/bin/env bash
# Dolly as token ids: data/dolly -> processed_data/dolly/full/llama2
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}" # its tokenizer is used; the teacher has the same

process_instructions "$@"
