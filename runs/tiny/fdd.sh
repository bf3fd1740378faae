#!/usr/bin/env bash
# FDD in an invented world, with teacher and baseline. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

start_run models "$@"
step fdd/train.sh "$@"
report sft/teacher sft/student fdd/student
