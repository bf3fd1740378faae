# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The openllama2 family: teacher OpenLLaMA-v2 7B, student OpenLLaMA-v2 3B, both with LoRA.
FAMILY=openllama2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TEACHER_BASE="${TEACHER_BASE:-openlm-research/open_llama_7b_v2}" # Hub ids or folders
STUDENT_BASE="${STUDENT_BASE:-openlm-research/open_llama_3b_v2}"
MODEL_TYPE=llama
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-2400}"
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lora.sh"

RESULT_ROWS=(
  "Teacher=sft/openllama2-7B"
  "SFT=sft/openllama2-3B"
  "KD=kd/3B_7B"
  "KD + CONTRA=contra/kd/3B_7B"
  "DistiLLM=distillm/3B_7B"
  "DistiLLM + CONTRA=contra/distillm/3B_7B"
  "FDD=fdd/3B_7B"
  "FDD + CONTRA=contra/fdd/3B_7B"
  "DistiLLM-2=distillm2/3B_7B"
  "DistiLLM-2 + CONTRA=contra/distillm2/3B_7B"
)

prepare_teacher() {
  once "${TEACHER_PEFT_CKPT-$TRAIN/sft/openllama2-7B}" sft/sft_7B_lora.sh "$@"
}

prepare_student() {
  once "$TRAIN/init/openllama2-3B" init/init_3B_lora.sh "$@"
}
