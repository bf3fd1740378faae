#!/usr/bin/env bash
# FDD + CONTRA in an invented world, with teacher and baseline. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run "models velocity_field" "$@"
step fdd/contra.sh "$@"
report sft/teacher sft/student contra/fdd/student
