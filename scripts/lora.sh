# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh and by the families' scripts
# The recipe that the published LoRA families share; sourced by their common.sh.

TRAINING+=(
  --peft lora
  --peft-lora-r 16
  --peft-lora-alpha 64
  --peft-lora-dropout 0.1
  --gradient-checkpointing
  --batch-size 16
  --gradient-accumulation-steps 1
  --lr 5e-4
)
DISTILLATION+=(
  --eval-batch-size 32
  --epochs 10
)
FIELD+=(
  --eval-batch-size 8
  --epochs 3
)
PAIRS+=(
  --gradual-beta
  --batch-size 8
  --gradient-accumulation-steps 2
)

TEACHER_VARIABLE=TEACHER_PEFT_CKPT
PAIR="${STUDENT_SIZE}_$TEACHER_SIZE"
part student "init/$FAMILY-$STUDENT_SIZE" "init/init_${STUDENT_SIZE}_lora.sh"
row "Teacher" "sft/$FAMILY-$TEACHER_SIZE" "sft/sft_${TEACHER_SIZE}_lora.sh"
row "SFT" "sft/$FAMILY-$STUDENT_SIZE" "sft/sft_${STUDENT_SIZE}_lora.sh"
row "KD" "kd/$PAIR" "kd/kd_${PAIR}_teacher_lora.sh" teacher
row "KD + CONTRA" "contra/kd/$PAIR" "kd/contra_${PAIR}_teacher_lora.sh" teacher student velocity_field
row "DistiLLM" "distillm/$PAIR" "distillm/train_${PAIR}_teacher_lora.sh" teacher student
row "DistiLLM + CONTRA" "contra/distillm/$PAIR" "distillm/contra_${PAIR}_teacher_lora.sh" teacher student velocity_field
row "FDD" "fdd/$PAIR" "fdd/fdd_${PAIR}_teacher_lora.sh" teacher student
row "FDD + CONTRA" "contra/fdd/$PAIR" "fdd/contra_${PAIR}_teacher_lora.sh" teacher student velocity_field
row "DistiLLM-2" "distillm2/$PAIR" "distillm2/distillm2_${PAIR}_lora.sh" teacher student pairs
row "DistiLLM-2 + CONTRA" "contra/distillm2/$PAIR" "distillm2/contra_${PAIR}_lora.sh" \
  teacher student pairs pair_velocity_field
