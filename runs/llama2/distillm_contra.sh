#!/usr/bin/env bash
# DistiLLM + CONTRA on llama2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/llama2/common.sh"

start_run "teacher student velocity_field" "$@"
step distillm/contra_7B_13B_teacher_lora.sh "$@"
report contra/distillm/7B_13B
