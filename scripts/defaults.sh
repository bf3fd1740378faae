# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the scripts
# Every path and size that a family's common.sh may leave to the rule; each can be set in the environment.

RAW_DATA_DIR="${RAW_DATA_DIR:-$BASE_PATH/data/dolly/}"
RAW_CORPUS_DIR="${RAW_CORPUS_DIR:-$BASE_PATH/data/openwebtext/}"
EVAL_DATA_DIR="${EVAL_DATA_DIR:-$BASE_PATH/data/}"
DATA_DIR="${DATA_DIR:-$BASE_PATH/processed_data/dolly/full/$FAMILY/}"
LM_DATA_DIR="${LM_DATA_DIR-$BASE_PATH/processed_data/openwebtext/$FAMILY/512/22.87K/}"
RESPONSE_DIR="${RESPONSE_DIR:-$BASE_PATH/data/distillm2/$FAMILY}"
PAIR_DATA_DIR="${PAIR_DATA_DIR:-$RESPONSE_DIR/formatted}"
RESULTS_DIR="${RESULTS_DIR:-$BASE_PATH/results/$FAMILY}"
TRAIN="$RESULTS_DIR/train"

DEV_NUM="${DEV_NUM:-1000}"
MAX_LENGTH="${MAX_LENGTH:-512}"
MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-256}"
RESPONSE_LENGTH="${RESPONSE_LENGTH:-512}" # new tokens of a response in DistiLLM-2's pairs
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-64}"
PRECISION="${PRECISION:-auto}" # bf16 where the hardware has it, fp16 on older GPUs, else fp32
NUM_DISTILL_LAYERS="${NUM_DISTILL_LAYERS:-6}"
VELOCITY_N_LAYERS="${VELOCITY_N_LAYERS:-4}"
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-1024}"
