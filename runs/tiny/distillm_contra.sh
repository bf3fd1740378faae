#!/usr/bin/env bash
# DistiLLM and DistiLLM + CONTRA in an invented world, with teacher and baseline: needs no network, data or GPU.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run
together "prepare_teacher prepare_student" "$@"
prepare_velocity_field "$@"
together "distill_plainly distill_with_contra" "$@"
report "SFT DistiLLM" \
  "Teacher=sft/teacher" \
  "SFT=sft/student" \
  "DistiLLM=distillm/student" \
  "DistiLLM + CONTRA=contra/distillm/student"
