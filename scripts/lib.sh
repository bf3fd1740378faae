# shellcheck shell=bash
# What all scripts share. A script's first step is to source its family's common.sh, which sources this file, names its
# models, and then sources defaults.sh for every path and size that neither it nor the environment has set:
#
#   bash <script> [BASE_PATH [MASTER_PORT [GPU_NUM [extra options...]]]]      defaults: . 2012 1
#
# Afterwards "$@" holds only the extra options. They come last on every command line and override the script's options.
# From the environment:
#   DRY_RUN=1                            print the command, shell-quoted, as the last line, and run nothing
#   NNODES, NODE_RANK, MASTER_ADDR       training on several nodes (GPU_NUM processes on each), on a shared file system
#   EVAL_OPTIONS="--option value ..."    extra options for the evaluations that a run ends with
#   RESULTS_DIR, TEACHER_BASE, CKPT, SAVE_PATH, ...    any variable at the top of a script, a common.sh or defaults.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$REPOSITORY/scripts/checks.sh"
source "$REPOSITORY/scripts/options.sh"

# ---- arguments ---------------------------------------------------------------------------------------------------

BASE_PATH="${1:-.}"
MASTER_PORT="${2:-2012}"
GPU_NUM="${3:-1}"
shift $(($# < 3 ? $# : 3))
USER_OPTIONS=$#
NNODES="${NNODES:-1}"
NODE_RANK="${NODE_RANK:-0}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
export MASTER_ADDR MASTER_PORT TOKENIZERS_PARALLELISM=false

[[ "$BASE_PATH" != -* && -f "$BASE_PATH/scripts/lib.sh" ]] ||
  die "BASE_PATH=${BASE_PATH@Q} is not the repository's root: $FIRST"
check_environment

# ---- running -----------------------------------------------------------------------------------------------------

dry_run() {
  [[ "${DRY_RUN:-0}" != 0 ]]
}

# execute COMMAND...: runs it in the project's environment, or prints it.
execute() {
  if dry_run; then
    local line
    printf -v line '%q ' "$@"
    printf '%s\n' "${line% }"
    return
  fi
  use_environment
  PYTHONPATH="$(cd "$BASE_PATH" && pwd)${PYTHONPATH:+:$PYTHONPATH}" attend "$@"
}

# launch ENTRY_SCRIPT OPTION...: starts one process directly, several with torchrun. If an option is given twice, the
# last one counts.
launch() {
  local command=(python3)
  if ((GPU_NUM > 1 || NNODES > 1)); then
    command=(torchrun
      --nproc_per_node "$GPU_NUM"
      --nnodes "$NNODES"
      --node_rank "$NODE_RANK"
      --master_addr "$MASTER_ADDR"
      --master_port "$MASTER_PORT")
    # torchrun would give each of its processes one thread.
    local threads=$(($(getconf _NPROCESSORS_ONLN) / GPU_NUM))
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
    # It would kill a stopped training after 30 seconds: the checkpoint of a large model takes longer.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}"
  fi
  keep_last "${@:2}"
  execute "${command[@]}" "$BASE_PATH/$1" "${OPTIONS[@]}"
}

# tool NAME OPTION...
tool() {
  execute python3 "$BASE_PATH/tools/$1" "${@:2}"
}

# ---- path checks -------------------------------------------------------------------------------------------------

# A Hub id is `name` or `owner/name`; everything below BASE_PATH starts differently or lies deeper.
is_hub_id() {
  [[ "$1" =~ ^[A-Za-z0-9][^/]*(/[^/]+)?$ && ! -e "$1" ]]
}

# stands FOLDER: true if it holds a file that a script writes when it has finished; a training's folder needs
# finished.json as well.
stands() {
  local last
  [[ ! -f "$1/args.json" || -f "$1/finished.json" ]] || return 1
  for last in config.json adapter_config.json velocity_field.json meta.json dataset_dict.json; do
    [[ ! -f "$1/$last" ]] || return 0
  done
  return 1
}

# require_folder VARIABLE ADVICE, require_model VARIABLE: one clear line before Python is started.
require_folder() {
  dry_run || [[ -d "${!1}" ]] || die "$1='${!1}' is not a folder: $2"
}

require_model() {
  is_hub_id "${!1}" || require_folder "$1" "run the script that writes it first (README, 'Model checkpoints'), or set $1"
}

# ---- data --------------------------------------------------------------------------------------------------------

# process_instructions OPTION...: RAW_DATA_DIR/{train,dev}.jsonl (or raw.jsonl) become the token store DATA_DIR.
process_instructions() {
  keep_last \
    --data-dir "$RAW_DATA_DIR" \
    --processed-data-dir "$DATA_DIR" \
    --model-path "$CKPT" \
    --model-type "$MODEL_TYPE" \
    --max-length "$MAX_LENGTH" \
    --max-prompt-length "$MAX_PROMPT_LENGTH" \
    --dev-num "$DEV_NUM" \
    --train-num -1 \
    --data-process-workers 32 \
    "$@"
  tool process_data_dolly.py "${OPTIONS[@]}"
}

# process_corpus OPTION...: RAW_CORPUS_DIR/data.txt becomes the token store LM_DATA_DIR.
process_corpus() {
  keep_last \
    --data-dir "$RAW_CORPUS_DIR" \
    --processed-data-dir "$LM_DATA_DIR" \
    --model-path "$CKPT" \
    --model-type "$MODEL_TYPE" \
    --max-length "$MAX_LENGTH" \
    --dev-num 1000 \
    --train-num 22870 \
    --data-process-workers 32 \
    "$@"
  tool process_data_pretrain.py "${OPTIONS[@]}"
}

# answer SPLIT SIDE MODEL ADAPTER OPTION...: one side's responses to the prompts of one split.
answer() {
  local adapter=()
  [[ -z "$4" ]] || adapter=(--peft-path "$4")
  launch tools/generate_responses.py \
    --data "$RAW_DATA_DIR/$1.jsonl" \
    --output "$RESPONSE_DIR/generated_$1_$2.jsonl" \
    --model-path "$3" \
    "${adapter[@]}" \
    --max-prompt-length "$MAX_PROMPT_LENGTH" \
    --max-new-tokens "$RESPONSE_LENGTH" \
    --eval-batch-size "$EVAL_BATCH_SIZE" \
    --precision "$PRECISION" \
    --do-sample \
    --temperature 1.0 \
    --top-p 0.95 \
    --top-k 0 \
    --seed 42 \
    "${@:5}"
}

# generate_pairs OPTION...: TEACHER_CKPT and CKPT each answer every prompt of RAW_DATA_DIR/{train,dev}.jsonl, in
# RESPONSE_DIR; joined row by row they become the response pairs SAVE_PATH.
# shellcheck disable=SC2153 # SAVE_PATH is the script's, no misspelt BASE_PATH
generate_pairs() {
  local split
  require_model TEACHER_CKPT
  require_model CKPT
  for split in train dev; do
    answer "$split" teacher "$TEACHER_CKPT" "${TEACHER_PEFT_CKPT:-}" "$@"
    answer "$split" student "$CKPT" "${PEFT_CKPT:-}" "$@"
  done
  on_first_node tool build_response_pairs.py --responses "$RESPONSE_DIR" --output "$SAVE_PATH"
}

# ---- training ----------------------------------------------------------------------------------------------------
# These read the path variables CKPT, TEACHER_CKPT, DATA_DIR, LM_DATA_DIR, PAIR_DATA_DIR, VELOCITY_FIELD_PATH, SAVE_PATH,
# and with LoRA PEFT_CKPT, the adapter to continue training (none: a fresh one), and TEACHER_PEFT_CKPT.

# What a family adds to every training, every distillation, every velocity field; a script says what differs.
FAMILY_OPTIONS=()
DISTILLATION_OPTIONS=()
FIELD_OPTIONS=()

# start_training ENTRY_SCRIPT OPTION...: from CKPT, on DATA_DIR, with the options that every training script shares.
# shellcheck disable=SC2153 # SAVE_PATH is the script's, no misspelt BASE_PATH
start_training() {
  require_model CKPT
  require_folder DATA_DIR "make it with scripts/$FAMILY/tools/process_data_dolly.sh, or set DATA_DIR"
  local adapter=()
  if [[ -n "${PEFT_CKPT:-}" ]]; then
    require_model PEFT_CKPT
    adapter=(--peft-path "$PEFT_CKPT")
  fi
  local options=(
    --model-path "$CKPT"
    --model-type "$MODEL_TYPE"
    --data-dir "$DATA_DIR"
    --save "$SAVE_PATH"
    "${adapter[@]}"
    --do-train
    --do-valid
    --eval-gen
    --dev-num "$DEV_NUM"
    --max-length "$MAX_LENGTH"
    --max-prompt-length "$MAX_PROMPT_LENGTH"
    --lr-decay-style cosine
    --warmup-iters 0
    --weight-decay 1e-2
    --clip-grad 1.0
    --save-interval -1
    --eval-interval -1
    --log-interval 10
    --seed 10
    --precision "$PRECISION"
  )
  options+=("${FAMILY_OPTIONS[@]}" "${@:2}")
  warn_of_another_batch "${options[@]}"
  launch "$1" "${options[@]}"
}

SAMPLING_OPTIONS=(
  --do-sample
  --temperature 1.0
  --top-p 1.0
  --top-k 0
)

# The DeepSpeed configuration of scripts that say no other, and one that shards gradients, too.
ZERO_1="$BASE_PATH/configs/deepspeed/ds_config.json"
# shellcheck disable=SC2034
ZERO_2="$BASE_PATH/configs/deepspeed/ds_config_zero2.json"

# finetune OPTION...: CKPT learns from DATA_DIR. An empty DEEPSPEED_CONFIG means plain PyTorch.
finetune() {
  local deepspeed=()
  DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$ZERO_1}"
  [[ -z "$DEEPSPEED_CONFIG" ]] || deepspeed=(--deepspeed --deepspeed_config "$DEEPSPEED_CONFIG")
  start_training finetune.py "${SAMPLING_OPTIONS[@]}" "${deepspeed[@]}" "$@"
}

# pretrain OPTION...: CKPT, with random weights, learns the corpus in LM_DATA_DIR; its dev loss chooses the epoch.
pretrain() {
  DATA_DIR="$LM_DATA_DIR" finetune --type lm --eval-gen false "$@"
}

# with_teacher TRAINING OPTION...: a training that reads TEACHER_CKPT.
with_teacher() {
  local adapter=()
  require_model TEACHER_CKPT
  if [[ -n "${TEACHER_PEFT_CKPT:-}" ]]; then
    require_model TEACHER_PEFT_CKPT
    adapter=(--teacher-peft-path "$TEACHER_PEFT_CKPT")
  fi
  "$1" --teacher-model-path "$TEACHER_CKPT" "${adapter[@]}" "${@:2}"
}

# distill OPTION...: CKPT learns from TEACHER_CKPT, and from the corpus in LM_DATA_DIR unless that is set to nothing.
distill() {
  local corpus=()
  if [[ -n "$LM_DATA_DIR" ]]; then
    require_folder LM_DATA_DIR "make it with scripts/$FAMILY/tools/process_data_pretrain.sh, or set LM_DATA_DIR= to go without"
    corpus=(--lm-data-dir "$LM_DATA_DIR")
  fi
  with_teacher finetune --kd-ratio 1.0 "${corpus[@]}" "${DISTILLATION_OPTIONS[@]}" "$@"
}

# What an adaptive-* method adds; scripts put it before their own options.
# shellcheck disable=SC2034
ON_POLICY_OPTIONS=(
  --init-threshold 0.0
  --loss-eps 0.1
  --capacity 1000
)

# on_pairs TRAINING OPTION...: a training whose rows are the response pairs in PAIR_DATA_DIR.
on_pairs() {
  require_folder PAIR_DATA_DIR "make it with scripts/$FAMILY/distillm2/generate_data.sh, or set PAIR_DATA_DIR"
  DATA_DIR="$PAIR_DATA_DIR" "$@"
}

# distill_pairs OPTION...: distill, on response pairs; validated on DATA_DIR.
distill_pairs() {
  require_folder DATA_DIR "make it with scripts/$FAMILY/tools/process_data_dolly.sh, or set DATA_DIR"
  on_pairs distill --gt-data-dir "$DATA_DIR" "$@"
}

# with_contra DISTILLATION OPTION...: along the velocity field of VELOCITY_FIELD_PATH.
with_contra() {
  require_folder VELOCITY_FIELD_PATH "train it first (README, 'Model checkpoints'), or set VELOCITY_FIELD_PATH"
  "$1" \
    --velocity-field-path "$VELOCITY_FIELD_PATH" \
    --velocity-epochs 1 \
    --velocity-update-interval 1 \
    --num-distill-layers "$NUM_DISTILL_LAYERS" \
    "${@:2}"
}

start_field_training() {
  start_training train_velocity_field.py "$@"
}

# train_velocity_field OPTION...: flow matching between CKPT and TEACHER_CKPT, both frozen, on DATA_DIR.
train_velocity_field() {
  with_teacher start_field_training \
    --velocity-n-layers "$VELOCITY_N_LAYERS" \
    --velocity-d-model "$VELOCITY_D_MODEL" \
    --num-distill-layers "$NUM_DISTILL_LAYERS" \
    "${FIELD_OPTIONS[@]}" \
    "$@"
}

# ---- evaluation --------------------------------------------------------------------------------------------------

# full_path PATH: from the root, without `.`, `..`, doubled and trailing slashes; links stay.
full_path() {
  local part parts path=
  [[ "$1" == /* ]] || path="$PWD"
  IFS=/ read -ra parts <<<"$1"
  for part in "${parts[@]}"; do
    case "$part" in
      "" | .) ;;
      ..) path="${path%/*}" ;;
      *) path+="/$part" ;;
    esac
  done
  printf '%s' "$path"
}

# below FOLDER PATH: prints PATH relative to FOLDER, whatever links either contains; fails if PATH is not below FOLDER.
below() {
  local folder path parent
  folder="$(full_path "$1")"
  path="$(full_path "$2")"
  parent="$path"
  while [[ "$parent" == */* ]]; do
    parent="${parent%/*}"
    if [[ "$parent" == "$folder" || "$parent/" -ef "$folder" ]]; then
      printf '%s' "${path#"$parent"/}"
      return
    fi
  done
  return 1
}

# checkpoint_path CHECKPOINT: a checkpoint is named by its path below $TRAIN, or by any path.
checkpoint_path() {
  local path="$TRAIN/$1" name
  if ! stands "$path" && { stands "$1" || [[ "$1" == [./]* ]] || below "$TRAIN" "$1" >/dev/null; }; then
    path="$1"
  fi
  dry_run || stands "$path" || die "no checkpoint '$1': neither $TRAIN/$1 nor $1 holds a model"
  if name="$(below "$TRAIN" "$path")"; then
    path="$TRAIN/$name"
  fi
  printf '%s' "$path"
}

# evaluation_folder PATH: where the results of a checkpoint go, however it is named: its path below $TRAIN, else below the
# repository, else from the root, with _ for every /.
evaluation_folder() {
  local real="$1" name
  [[ ! -d "$1" ]] || real="$(cd "$1" && pwd -P)"
  name="$(below "$TRAIN" "$1" || below "$TRAIN" "$real" || below "$REPOSITORY" "$real" || full_path "$real")"
  printf '%s' "$RESULTS_DIR/eval_main/${name//\//_}"
}

# evaluate "SET..." CHECKPOINT OPTION...: every set with five seeds, in one process that loads the model once.
evaluate() {
  local CHECKPOINT="${2:-}" path
  [[ -n "$CHECKPOINT" ]] || die "no checkpoint given: name one below $TRAIN, or a path"
  require_paths CHECKPOINT
  path="$(checkpoint_path "$CHECKPOINT")"
  start_evaluation "$1" --model-path "$path" --save "$(evaluation_folder "$path")" "${@:3}"
}

# evaluate_on GPU_IDX CHECKPOINT OPTION...: all sets, on that GPU.
evaluate_on() {
  local GPU_IDX="${1:-0}"
  require_each GPU_IDX '-1|[0-9]+(,[0-9]+)*|(GPU|MIG)-[A-Za-z0-9,-]+' "the index of a GPU: the arguments are GPU_IDX CKPT_PATH, then options"
  export CUDA_VISIBLE_DEVICES="$GPU_IDX"
  evaluate "$EVALUATION_SETS" "${@:2}"
}

# evaluate_adapter "SET..." NAME ADAPTER BASE_MODEL OPTION...: the same for an adapter. Its results are named after the
# adapter, like those of any checkpoint; NAME is only a label in the line that announces them.
evaluate_adapter() {
  local NAME="${2:-}" ADAPTER="${3:-}" BASE_MODEL="${4:-}" path folder
  [[ -n "$NAME" && -n "$ADAPTER" && -n "$BASE_MODEL" ]] ||
    die "the arguments are BASE_PATH MASTER_PORT GPU_NUM NAME ADAPTER BASE_MODEL, then options"
  require_paths "NAME ADAPTER BASE_MODEL"
  path="$(checkpoint_path "$ADAPTER")"
  folder="$(evaluation_folder "$path")"
  dry_run || printf '%s: adapter %s on %s, results in %s\n' "$NAME" "$path" "$BASE_MODEL" "$folder" >&2
  start_evaluation "$1" --model-path "$BASE_MODEL" --peft-path "$path" --save "$folder" "${@:5}"
}

start_evaluation() {
  local sets
  read -ra sets <<<"$1"
  launch evaluate.py \
    --data-dir "$EVAL_DATA_DIR" \
    --data-names "${sets[@]}" \
    --seeds 10 20 30 40 50 \
    --eval-batch-size "$EVAL_BATCH_SIZE" \
    --max-length "$MAX_LENGTH" \
    --max-prompt-length "$MAX_PROMPT_LENGTH" \
    --precision "$PRECISION" \
    "${SAMPLING_OPTIONS[@]}" \
    --no-repeat-ngram-size 6 \
    "${@:2}"
}

source "$(dirname "${BASH_SOURCE[0]}")/runs.sh"
