#!/usr/bin/env bash
# ROUGE-L on self_inst: bash scripts/gpt2/eval/eval_main_self_inst.sh BASE_PATH MASTER_PORT GPU_NUM CKPT [options]
set -euo pipefail
source "$(dirname "$0")/../common.sh"

evaluate self_inst "$@"
