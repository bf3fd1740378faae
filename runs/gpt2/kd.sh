#!/usr/bin/env bash
# Classic distillation on gpt2, from nothing to its ROUGE-L. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/gpt2/common.sh"

start_run teacher "$@"
step kd/kd_base.sh "$@"
report kd/base
