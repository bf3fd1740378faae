# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The gpt2 family: teacher gpt2-xl (1.5B), student gpt2 (0.1B).
FAMILY=gpt2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

TEACHER_BASE="${TEACHER_BASE:-gpt2-xl}" # Hub ids or folders
STUDENT_BASE="${STUDENT_BASE:-gpt2}"
MODEL_TYPE=gpt2
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"

DISTILLATION+=(
  --batch-size 16
  --gradient-accumulation-steps 1
  --eval-batch-size 64
  --lr 5e-4
  --epochs 20
)
FIELD+=(
  --eval-batch-size 32
  --lr 5e-4
  --epochs 3
)

part student init/gpt2-base init/init_base.sh
row "Teacher" sft/gpt2-xlarge sft/sft_xlarge.sh
row "SFT" sft/gpt2-base sft/sft_base.sh
row "KD" kd/base kd/kd_base.sh teacher
row "KD + CONTRA" contra/kd/base kd/contra_base.sh teacher student velocity_field
row "DistiLLM" distillm/0.1B_1.5B distillm/train_0.1B_1.5B.sh teacher student
row "DistiLLM + CONTRA" contra/distillm/0.1B_1.5B distillm/contra_0.1B_1.5B.sh teacher student velocity_field
row "FDD" fdd/base fdd/fdd_base.sh teacher student
row "FDD + CONTRA" contra/fdd/base fdd/contra_base.sh teacher student velocity_field
row "DistiLLM-2" distillm2/v2_base distillm2/distillm2_v2_base.sh teacher student pairs
row "DistiLLM-2 + CONTRA" contra/distillm2/0.1B_1.5B distillm2/contra_0.1B_1.5B.sh teacher student pairs pair_velocity_field

# ablate NAME VARIABLE OPTION...: DistiLLM + CONTRA once more for each of VALUES, each with a velocity field of its own.
ablate() {
  local value seed
  start_run "Teacher, SFT, DistiLLM" "${@:3}"
  needed student || die "ROWS: an ablation needs DistiLLM"
  for value in $VALUES; do
    export "$2=$value"
    for seed in ${SEEDS:-$OWN_SEED}; do
      use_seed "$seed"
      ablate_value "$1/$value" "${@:3}" "${SEED_OPTIONS[@]}"
    done
    row "CONTRA, $1 $value" "ablation/$1/$value" ""
    CHOSEN+=("CONTRA, $1 $value")
  done
  report
}

# ablate_value NAME/VALUE OPTION...: the velocity field, and the student that follows it.
ablate_value() {
  local -x VELOCITY_FIELD_PATH="$TRAIN/velocity_field/$1"
  once "$VELOCITY_FIELD_PATH" train_velocity_field.sh "${@:2}"
  SAVE_PATH="$TRAIN/ablation/$1" step distillm/contra_0.1B_1.5B.sh "${@:2}"
}
