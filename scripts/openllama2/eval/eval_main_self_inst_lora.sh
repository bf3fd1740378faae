#!/usr/bin/env bash
# ROUGE-L on self_inst: bash scripts/openllama2/eval/eval_main_self_inst_lora.sh BASE_PATH MASTER_PORT GPU_NUM NAME ADAPTER BASE_MODEL [options]
set -euo pipefail
source "$(dirname "$0")/../common.sh"

evaluate_adapter self_inst "$@"
