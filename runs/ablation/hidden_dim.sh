#!/usr/bin/env bash
# DistiLLM + CONTRA on gpt2 with each of VALUES as the width of the velocity field. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/gpt2/common.sh"

VALUES="${VALUES:-256 512 768 1024 2048}"

ablate hidden_dim VELOCITY_D_MODEL "$@"
