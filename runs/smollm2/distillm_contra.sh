#!/usr/bin/env bash
# DistiLLM and DistiLLM + CONTRA with a real pretrained model on a CPU (sizes: scripts/smollm2/common.sh), compared with teacher and SFT: from nothing to a table. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/smollm2/common.sh"

run_rows "Teacher, SFT, DistiLLM, DistiLLM + CONTRA" "$@"
