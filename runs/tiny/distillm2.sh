#!/usr/bin/env bash
# DistiLLM-2 in an invented world, with teacher and baseline. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run "models pairs" "$@"
step distillm2/train.sh "$@"
report sft/teacher sft/student distillm2/student
