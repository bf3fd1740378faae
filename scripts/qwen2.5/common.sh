# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The qwen2.5 family: teacher Qwen2.5-1.5B, student Qwen2.5-0.5B. An example of a new model pair; no published results.
FAMILY=qwen2.5
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TEACHER_BASE="${TEACHER_BASE:-Qwen/Qwen2.5-1.5B}" # Hub ids or folders
STUDENT_BASE="${STUDENT_BASE:-Qwen/Qwen2.5-0.5B}"
MODEL_TYPE=qwen2
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"

TRAINING+=(
  --batch-size 16
  --eval-batch-size 32
)
DISTILLATION+=(
  --lr 2e-5
  --epochs 10
)
FIELD+=(
  --lr 5e-4
  --epochs 3
)

part student init/qwen2.5-0.5B init/init_0.5B.sh
row "Teacher" sft/qwen2.5-1.5B sft/sft_1.5B.sh
row "SFT" sft/qwen2.5-0.5B sft/sft_0.5B.sh
row "DistiLLM" distillm/0.5B_1.5B distillm/train_0.5B_1.5B.sh teacher student
row "DistiLLM + CONTRA" contra/distillm/0.5B_1.5B distillm/contra_0.5B_1.5B.sh teacher student velocity_field
