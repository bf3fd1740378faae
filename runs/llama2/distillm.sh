#!/usr/bin/env bash
# DistiLLM on llama2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/llama2/common.sh"

start_run "teacher student" "$@"
step distillm/train_7B_13B_teacher_lora.sh "$@"
report distillm/7B_13B
