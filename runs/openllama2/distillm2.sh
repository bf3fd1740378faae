#!/usr/bin/env bash
# DistiLLM-2 on openllama2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/openllama2/common.sh"

start_run "teacher student pairs" "$@"
step distillm2/distillm2_3B_7B_lora.sh "$@"
report distillm2/3B_7B
