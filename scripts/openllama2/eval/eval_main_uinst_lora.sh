#!/usr/bin/env bash
# ROUGE-L on uinst: bash scripts/openllama2/eval/eval_main_uinst_lora.sh BASE_PATH MASTER_PORT GPU_NUM NAME ADAPTER BASE_MODEL [options]
set -euo pipefail
source "$(dirname "$0")/../common.sh"

evaluate_adapter uinst "$@"
