#!/usr/bin/env bash
# All six methods in an invented world, with teacher and baseline: one table. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run "models velocity_field pairs pair_velocity_field" "$@"
together "distillm/train.sh distillm/contra.sh" "$@"
together "fdd/train.sh fdd/contra.sh" "$@"
together "distillm2/train.sh distillm2/contra.sh" "$@"
report "${RESULT_ROWS[@]#*=}"
