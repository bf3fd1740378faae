#!/usr/bin/env bash
# All five sets with five seeds: bash scripts/llama2/eval/run_eval.sh GPU_IDX CKPT_PATH [options]
set -euo pipefail
source "$(dirname "$0")/../common.sh" "${BASE_PATH:-.}"

export CUDA_VISIBLE_DEVICES="${1:-0}"
evaluate "$EVALUATION_SETS" "${@:2}"
