# shellcheck shell=bash
# The gpt2 family: teacher gpt2-xl (1.5B), student gpt2 (0.1B).
FAMILY=gpt2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# Base models (Hub ids or folders) and folders; each can be set in the environment.
TEACHER_BASE="${TEACHER_BASE:-gpt2-xl}"
STUDENT_BASE="${STUDENT_BASE:-gpt2}"
RAW_DATA_DIR="${RAW_DATA_DIR:-$BASE_PATH/data/dolly/}"
RAW_CORPUS_DIR="${RAW_CORPUS_DIR:-$BASE_PATH/data/openwebtext/}"
DATA_DIR="${DATA_DIR:-$BASE_PATH/processed_data/dolly/full/gpt2/}"
LM_DATA_DIR="${LM_DATA_DIR-$BASE_PATH/processed_data/openwebtext/gpt2/512/22.87K/}"
EVAL_DATA_DIR="${EVAL_DATA_DIR:-$BASE_PATH/data/}"
RESULTS_DIR="${RESULTS_DIR:-$BASE_PATH/results/gpt2}"
TRAIN="$RESULTS_DIR/train"

MODEL_TYPE=gpt2
DEV_NUM=1000
MAX_LENGTH=512
MAX_PROMPT_LENGTH=256
EVAL_BATCH_SIZE=64
PRECISION="${PRECISION:-auto}" # bf16 where the hardware has it, fp16 on older GPUs, else fp32
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$BASE_PATH/configs/deepspeed/ds_config.json}"
NUM_DISTILL_LAYERS="${NUM_DISTILL_LAYERS:-6}"
VELOCITY_N_LAYERS="${VELOCITY_N_LAYERS:-4}"
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-1024}"

# One-time steps of this family's runs; their options are extra options for the training.
prepare_teacher() {
  once "${TEACHER_CKPT:-$TRAIN/sft/gpt2-xlarge}" sft/sft_xlarge.sh "$@"
}

prepare_student() {
  once "$TRAIN/init/gpt2-base" init/init_base.sh "$@"
}

prepare_velocity_field() {
  once "${VELOCITY_FIELD_PATH:-$TRAIN/velocity_field}" train_velocity_field.sh "$@"
}
