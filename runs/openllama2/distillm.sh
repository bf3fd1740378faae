#!/usr/bin/env bash
# DistiLLM on openllama2, compared with teacher and SFT: from nothing to a table. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/openllama2/common.sh"

run_rows "Teacher, SFT, DistiLLM" "$@"
