#!/usr/bin/env bash
# A test set for Dolly data that come without one.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

tool hold_out_test_rows.py --data-dir "$RAW_DATA_DIR" --output "$EVAL_DATA_DIR/dolly" --test-num "$TEST_ROWS" "$@"
