#!/usr/bin/env bash
# Dolly as token ids (32 bits each: the vocabulary is large): data/dolly -> processed_data/dolly/full/qwen2.5
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}" # its tokenizer is used; the teacher has the same

process_instructions "$@"
