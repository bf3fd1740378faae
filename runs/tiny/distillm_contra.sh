#!/usr/bin/env bash
# DistiLLM and DistiLLM + CONTRA in an invented world, with teacher and baseline: needs no network, data or GPU. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run "models velocity_field" "$@"
together "distillm/train.sh distillm/contra.sh" "$@"
report sft/teacher sft/student distillm/student contra/distillm/student
