#!/usr/bin/env bash
# FDD on llama2, compared with teacher and SFT: from nothing to a table. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/llama2/common.sh"

run_rows "Teacher, SFT, FDD" "$@"
