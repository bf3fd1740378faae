#!/usr/bin/env bash
# The tokenizer, and teacher and student with random weights.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

tool make_tiny_models.py --world "$WORLD" --output "$MODELS" "$@"
