#!/usr/bin/env bash
# All six methods on synthetic data, compared with teacher and SFT: one table. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

run_rows "Teacher, SFT, DistiLLM, DistiLLM + CONTRA, FDD, FDD + CONTRA, DistiLLM-2, DistiLLM-2 + CONTRA" "$@"
