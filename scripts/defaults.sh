# shellcheck shell=bash
# shellcheck disable=SC2034 # read by the other files of this folder and by the scripts
# Every path and size that a family's common.sh need not set; each can be set in the environment. Then the arrays of
# options that scripts compose; a common.sh adds to them.

RAW_DATA_DIR="${RAW_DATA_DIR:-$BASE_PATH/data/dolly/}"
RAW_CORPUS_DIR="${RAW_CORPUS_DIR:-$BASE_PATH/data/openwebtext/}"
EVAL_DATA_DIR="${EVAL_DATA_DIR:-$BASE_PATH/data/}"
DATA_DIR="${DATA_DIR:-$BASE_PATH/processed_data/dolly/full/$FAMILY/}"
LM_DATA_DIR="${LM_DATA_DIR-$BASE_PATH/processed_data/openwebtext/$FAMILY/512/22.87K/}"
RESPONSE_DIR="${RESPONSE_DIR:-$BASE_PATH/data/distillm2/$FAMILY}"
PAIR_DATA_DIR="${PAIR_DATA_DIR:-$RESPONSE_DIR/formatted}"
RESULTS_DIR="${RESULTS_DIR:-$BASE_PATH/results/$FAMILY}"
TRAIN="$RESULTS_DIR/train"
ZERO_1="$BASE_PATH/configs/deepspeed/ds_config.json" # of scripts that name no other DEEPSPEED_CONFIG
ZERO_2="$BASE_PATH/configs/deepspeed/ds_config_zero2.json" # shards gradients, too

DEV_NUM="${DEV_NUM:-1000}"
MAX_LENGTH="${MAX_LENGTH:-512}"
MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-256}"
RESPONSE_LENGTH="${RESPONSE_LENGTH:-512}" # most tokens in a response of DistiLLM-2's pairs
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-64}"
PRECISION="${PRECISION:-auto}" # bf16 where the hardware has it, fp16 on older GPUs, else fp32
NUM_DISTILL_LAYERS="${NUM_DISTILL_LAYERS:-6}"
VELOCITY_N_LAYERS="${VELOCITY_N_LAYERS:-4}"
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-1024}"

# @NAME is the path that NAME holds when the script calls `train`: the script may set it after this file is sourced.
TRAINING=( # every training run; `train` adds these by itself
  --model-path @CKPT --model-type "$MODEL_TYPE"
  --peft-path @PEFT_CKPT # the adapter to continue training; none: a fresh one
  --data-dir @DATA_DIR --dev-num "$DEV_NUM" --max-length "$MAX_LENGTH" --max-prompt-length "$MAX_PROMPT_LENGTH"
  --do-train --do-valid --eval-gen
  --lr-decay-style cosine --warmup-iters 0 --weight-decay 1e-2 --clip-grad 1.0
  --save-interval -1 --eval-interval -1 --log-interval 10
  --seed 10 --precision "$PRECISION"
)
TEACHER=(--teacher-model-path @TEACHER_CKPT --teacher-peft-path @TEACHER_PEFT_CKPT)
# from a teacher, and from the corpus unless LM_DATA_DIR is set to nothing
DISTILLATION=("${TEACHER[@]}" --kd-ratio 1.0 --lm-data-dir @LM_DATA_DIR)
ON_POLICY=(--init-threshold 0.0 --loss-eps 0.1 --capacity 1000) # what --type adaptive-* adds
PAIRS=(--data-dir @PAIR_DATA_DIR --gt-data-dir @DATA_DIR)       # DistiLLM-2: response pairs, validated on DATA_DIR
CONTRA=( # along a velocity field
  --velocity-field-path @VELOCITY_FIELD_PATH --velocity-epochs 1 --velocity-update-interval 1
  --num-distill-layers "$NUM_DISTILL_LAYERS"
)
FIELD=( # train_velocity_field.py: flow matching between CKPT and TEACHER_CKPT, both frozen
  "${TEACHER[@]}" --velocity-n-layers "$VELOCITY_N_LAYERS" --velocity-d-model "$VELOCITY_D_MODEL"
  --num-distill-layers "$NUM_DISTILL_LAYERS"
)
SAMPLING=(--do-sample --temperature 1.0 --top-p 1.0 --top-k 0) # of answers in validation and evaluation
