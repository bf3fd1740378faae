#!/usr/bin/env bash
# DistiLLM + CONTRA on gpt2 with each of VALUES as the number of blocks in the velocity field. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/gpt2/common.sh"

VALUES="${VALUES:-2 4 6}"

ablate velocity_depth VELOCITY_N_LAYERS "$@"
