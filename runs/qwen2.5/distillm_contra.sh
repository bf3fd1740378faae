#!/usr/bin/env bash
# DistiLLM + CONTRA on Qwen2.5, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/qwen2.5/common.sh"

start_run "teacher student velocity_field" "$@"
step distillm/contra_0.5B_1.5B.sh "$@"
report contra/distillm/0.5B_1.5B
