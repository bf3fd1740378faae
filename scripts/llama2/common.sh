# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The llama2 family: teacher LLaMA-2 13B, student LLaMA-2 7B, both with LoRA.
FAMILY=llama2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TEACHER_BASE="${TEACHER_BASE:-meta-llama/Llama-2-13b-hf}" # Hub ids or folders
STUDENT_BASE="${STUDENT_BASE:-meta-llama/Llama-2-7b-hf}"
MODEL_TYPE=llama
TEACHER_SIZE=13B # in the names of scripts and checkpoints
STUDENT_SIZE=7B
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-3200}"
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lora.sh"

PAIRS+=(
  --generate-sgo-interval 4
  --seed 31
)
MORE_OWN_SEEDS=(20 31 1031)
