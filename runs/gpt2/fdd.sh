#!/usr/bin/env bash
# FDD, and FDD + CONTRA, on gpt2, from nothing to their ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/gpt2/common.sh"

start_run "teacher student" "$@"
step fdd/fdd_base.sh "$@"
prepare_velocity_field "$@"
step fdd/contra_base.sh "$@"
report fdd/base contra/fdd/base
