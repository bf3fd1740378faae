#!/usr/bin/env bash
# FDD + CONTRA on openllama2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/openllama2/common.sh"

start_run "teacher student velocity_field" "$@"
step fdd/contra_3B_7B_teacher_lora.sh "$@"
report contra/fdd/3B_7B
