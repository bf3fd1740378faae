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
