#!/usr/bin/env bash
# DistiLLM-2 + CONTRA in an invented world, with teacher and baseline. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run "models pairs pair_velocity_field" "$@"
step distillm2/contra.sh "$@"
report sft/teacher sft/student contra/distillm2/student
