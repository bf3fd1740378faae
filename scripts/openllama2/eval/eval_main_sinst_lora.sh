#!/usr/bin/env bash
# ROUGE-L on sinst: bash scripts/openllama2/eval/eval_main_sinst_lora.sh BASE_PATH MASTER_PORT GPU_NUM NAME ADAPTER BASE_MODEL [options]
set -euo pipefail
source "$(dirname "$0")/../common.sh"

evaluate_adapter sinst "$@"
