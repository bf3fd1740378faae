#!/usr/bin/env bash
# DistiLLM-2 on llama2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/llama2/common.sh"

start_run "teacher student pairs" "$@"
step distillm2/distillm2_7B_13B_lora.sh "$@"
report distillm2/7B_13B
