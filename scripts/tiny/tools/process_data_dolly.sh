#!/usr/bin/env bash
# The instruction set as token ids.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

CKPT="${CKPT:-$MODELS/student}" # whose tokenizer; the teacher has the same

process_instructions "$@"
