#!/usr/bin/env bash
# DistiLLM-2 on synthetic data, without network or GPU, compared with teacher and SFT: from nothing to a table. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

run_rows "Teacher, SFT, DistiLLM-2" "$@"
