# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The llama2 family: teacher LLaMA-2 13B, student LLaMA-2 7B, both with LoRA.
FAMILY=llama2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TEACHER_BASE="${TEACHER_BASE:-meta-llama/Llama-2-13b-hf}" # Hub ids or folders
STUDENT_BASE="${STUDENT_BASE:-meta-llama/Llama-2-7b-hf}"
MODEL_TYPE=llama
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-3200}"
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"
source "$(dirname "${BASH_SOURCE[0]}")/../lora.sh"

PAIR_OPTIONS+=(
  --generate-sgo-interval 4
  --seed 31
)

RESULT_ROWS=(
  "Teacher=sft/llama2-13B"
  "SFT=sft/llama2-7B"
  "KD=kd/7B_13B"
  "KD + CONTRA=contra/kd/7B_13B"
  "DistiLLM=distillm/7B_13B"
  "DistiLLM + CONTRA=contra/distillm/7B_13B"
  "FDD=fdd/7B_13B"
  "FDD + CONTRA=contra/fdd/7B_13B"
  "DistiLLM-2=distillm2/7B_13B"
  "DistiLLM-2 + CONTRA=contra/distillm2/7B_13B"
)

prepare_teacher() {
  once "${TEACHER_PEFT_CKPT-$TRAIN/sft/llama2-13B}" sft/sft_13B_lora.sh "$@"
}

prepare_student() {
  once "$TRAIN/init/llama2-7B" init/init_7B_lora.sh "$@"
}
