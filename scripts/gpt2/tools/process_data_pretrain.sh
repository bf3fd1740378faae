#!/usr/bin/env bash
# OpenWebText as chunks of 512 token ids: data/openwebtext -> processed_data/openwebtext/gpt2/512/22.87K
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$STUDENT_BASE}" # its tokenizer is used; the teacher has the same

process_corpus "$@"
