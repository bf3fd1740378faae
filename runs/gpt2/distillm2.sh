#!/usr/bin/env bash
# DistiLLM-2 on gpt2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/gpt2/common.sh"

start_run "teacher student pairs" "$@"
step distillm2/distillm2_v2_base.sh "$@"
report distillm2/v2_base
