#!/usr/bin/env bash
# The corpus as chunks of token ids.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$MODELS/student}" # its tokenizer is used; the teacher has the same

process_corpus --max-length "$CORPUS_LENGTH" --dev-num 100 --train-num -1 "$@"
