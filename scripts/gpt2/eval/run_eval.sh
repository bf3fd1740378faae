#!/usr/bin/env bash
# All five sets with five seeds: bash scripts/gpt2/eval/run_eval.sh GPU_IDX CKPT_PATH [options]
set -euo pipefail
source "$(dirname "$0")/../common.sh" "${BASE_PATH:-.}"

evaluate_on "$@"
