# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The openllama2 family: teacher OpenLLaMA-v2 7B, student OpenLLaMA-v2 3B, both with LoRA.
FAMILY=openllama2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TEACHER_BASE="${TEACHER_BASE:-openlm-research/open_llama_7b_v2}" # Hub ids or folders
STUDENT_BASE="${STUDENT_BASE:-openlm-research/open_llama_3b_v2}"
MODEL_TYPE=llama
TEACHER_SIZE=7B # in the names of scripts and checkpoints
STUDENT_SIZE=3B
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-2400}"
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lora.sh"
