#!/usr/bin/env bash
# DistiLLM and DistiLLM + CONTRA with a real pretrained model on a CPU, with teacher and baseline.
# Sizes are environment variables, see scripts/smollm2/common.sh.
set -euo pipefail
source "$(dirname "$0")/../../scripts/smollm2/common.sh"

start_run "" "$@"
step pretrain/heal_student.sh "$@"
step sft/sft_teacher.sh "$@"
step sft/sft_student.sh "$@"
step init/init_student.sh "$@"
step train_velocity_field.sh "$@"
step distillm/train.sh "$@"
step distillm/contra.sh "$@"
report "${RESULT_ROWS[@]#*=}"
