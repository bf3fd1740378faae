#!/usr/bin/env bash
# The raw data: an instruction set, five test sets, a corpus, and more rows for the teacher.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

tool make_tiny_world.py --output "$WORLD" "$@"
