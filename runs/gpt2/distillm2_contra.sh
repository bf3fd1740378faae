#!/usr/bin/env bash
# DistiLLM-2 + CONTRA on gpt2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/gpt2/common.sh"

start_run "teacher student pairs pair_velocity_field" "$@"
step distillm2/contra_0.1B_1.5B.sh "$@"
report contra/distillm2/0.1B_1.5B
