#!/usr/bin/env bash
# DistiLLM and DistiLLM + CONTRA in an invented world, with teacher and baseline: needs no network, data or GPU.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run
prepare_teacher "$@"
prepare_student "$@"
prepare_velocity_field "$@"
step distillm/train.sh "$@"
step distillm/contra.sh "$@"
report "SFT DistiLLM" \
  "Teacher=sft/teacher" \
  "SFT=sft/student" \
  "DistiLLM=distillm/student" \
  "DistiLLM + CONTRA=contra/distillm/student"
