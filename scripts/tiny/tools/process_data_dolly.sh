#!/usr/bin/env bash
# The instruction set as token ids.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$MODELS/student}" # its tokenizer is used; the teacher has the same

process_instructions "$@"
