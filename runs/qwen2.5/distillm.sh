#!/usr/bin/env bash
# DistiLLM on Qwen2.5, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/qwen2.5/common.sh"

start_run "teacher student" "$@"
step distillm/train_0.5B_1.5B.sh "$@"
report distillm/0.5B_1.5B
