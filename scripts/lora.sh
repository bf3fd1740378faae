# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh and by the families' scripts
# The recipe that the published LoRA families share; sourced by their common.sh.

FAMILY_OPTIONS=(
  --peft lora
  --peft-lora-r 16
  --peft-lora-alpha 64
  --peft-lora-dropout 0.1
  --gradient-checkpointing
  --batch-size 16
  --gradient-accumulation-steps 1
  --lr 5e-4
)
DISTILLATION_OPTIONS=(
  --eval-batch-size 32
  --epochs 10
)
FIELD_OPTIONS=(
  --eval-batch-size 8
  --epochs 3
)
PAIR_OPTIONS=( # of DistiLLM-2
  --gradual-beta
  --batch-size 8
  --gradient-accumulation-steps 2
)

PAIR="${STUDENT_SIZE}_$TEACHER_SIZE"
RESULT_ROWS=(
  "Teacher=sft/$FAMILY-$TEACHER_SIZE"
  "SFT=sft/$FAMILY-$STUDENT_SIZE"
  "KD=kd/$PAIR"
  "KD + CONTRA=contra/kd/$PAIR"
  "DistiLLM=distillm/$PAIR"
  "DistiLLM + CONTRA=contra/distillm/$PAIR"
  "FDD=fdd/$PAIR"
  "FDD + CONTRA=contra/fdd/$PAIR"
  "DistiLLM-2=distillm2/$PAIR"
  "DistiLLM-2 + CONTRA=contra/distillm2/$PAIR"
)

# An empty TEACHER_PEFT_CKPT says that the teacher is a whole model.
prepare_teacher() {
  [[ -z "${TEACHER_PEFT_CKPT-default}" ]] ||
    once_unless_given TEACHER_PEFT_CKPT "$TRAIN/sft/$FAMILY-$TEACHER_SIZE" "sft/sft_${TEACHER_SIZE}_lora.sh" "$@"
}

prepare_student() {
  once "$TRAIN/init/$FAMILY-$STUDENT_SIZE" "init/init_${STUDENT_SIZE}_lora.sh" "$@"
}
