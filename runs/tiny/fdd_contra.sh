#!/usr/bin/env bash
# FDD and FDD + CONTRA in an invented world, without network, data or GPU, beside teacher and SFT: from nothing to a table. Extra options go to every training script.
set -euo pipefail
source "$(dirname "$0")/../../scripts/tiny/common.sh"

run_rows "Teacher, SFT, FDD, FDD + CONTRA" "$@"
