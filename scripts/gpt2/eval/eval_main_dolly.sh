#!/usr/bin/env bash
# ROUGE-L on dolly: bash scripts/gpt2/eval/eval_main_dolly.sh BASE_PATH MASTER_PORT GPU_NUM CKPT [options]
set -euo pipefail
source "$(dirname "$0")/../common.sh"

evaluate dolly "$@"
