# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The gpt2 family: teacher gpt2-xl (1.5B), student gpt2 (0.1B).
FAMILY=gpt2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TEACHER_BASE="${TEACHER_BASE:-gpt2-xl}" # Hub ids or folders
STUDENT_BASE="${STUDENT_BASE:-gpt2}"
MODEL_TYPE=gpt2
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"

DISTILLATION_OPTIONS=(
  --batch-size 16
  --gradient-accumulation-steps 1
  --eval-batch-size 64
  --lr 5e-4
  --epochs 20
)
FIELD_OPTIONS=(
  --eval-batch-size 32
  --lr 5e-4
  --epochs 3
)

RESULT_ROWS=(
  "Teacher=sft/gpt2-xlarge"
  "SFT=sft/gpt2-base"
  "KD=kd/base"
  "KD + CONTRA=contra/kd/base"
  "DistiLLM=distillm/0.1B_1.5B"
  "DistiLLM + CONTRA=contra/distillm/0.1B_1.5B"
  "FDD=fdd/base"
  "FDD + CONTRA=contra/fdd/base"
  "DistiLLM-2=distillm2/v2_base"
  "DistiLLM-2 + CONTRA=contra/distillm2/0.1B_1.5B"
)

prepare_teacher() {
  once_unless_given TEACHER_CKPT "$TRAIN/sft/gpt2-xlarge" sft/sft_xlarge.sh "$@"
}

prepare_student() {
  once "$TRAIN/init/gpt2-base" init/init_base.sh "$@"
}

# ablate NAME VARIABLE OPTION...: the velocity field and DistiLLM + CONTRA once more for each of VALUES.
ablate() {
  local value
  start_run "teacher student" "${@:3}"
  RESULT_ROWS=()
  for value in $VALUES; do
    export "$2=$value" VELOCITY_FIELD_PATH="$TRAIN/velocity_field/$1/$value"
    once "$VELOCITY_FIELD_PATH" train_velocity_field.sh "${@:3}"
    SAVE_PATH="$TRAIN/ablation/$1/$value" step distillm/contra_0.1B_1.5B.sh "${@:3}"
    RESULT_ROWS+=("$1 $value=ablation/$1/$value")
  done
  REPORT_DIR="$RESULTS_DIR/ablation/$1"
  report "${RESULT_ROWS[@]#*=}"
}
