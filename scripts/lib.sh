# shellcheck shell=bash
# What all scripts share. A script's first step is to source its family's common.sh, which sources this file:
#
#   bash <script> [BASE_PATH [MASTER_PORT [GPU_NUM [extra options...]]]]      defaults: . 2012 1
#
# Afterwards "$@" holds the extra options only. They go last on every command line, so they override what the script
# says. From the environment:
#   DRY_RUN=1                            print the command, shell-quoted, as the last line, and run nothing
#   NNODES, NODE_RANK, MASTER_ADDR       training on several nodes (GPU_NUM processes on each), on a shared file system
#   EVAL_OPTIONS="--option value ..."    extra options for the evaluations that a run ends with
#   RESULTS_DIR, TEACHER_BASE, CKPT, SAVE_PATH, ...    any path variable at the top of a script or a common.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# ---- arguments ---------------------------------------------------------------------------------------------------

BASE_PATH="${1:-.}"
MASTER_PORT="${2:-2012}"
GPU_NUM="${3:-1}"
shift $(($# < 3 ? $# : 3))
NNODES="${NNODES:-1}"
NODE_RANK="${NODE_RANK:-0}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
export MASTER_ADDR MASTER_PORT TOKENIZERS_PARALLELISM=false

[[ -f "$BASE_PATH/scripts/lib.sh" ]] ||
  die "BASE_PATH '$BASE_PATH' is not the repository's root: the arguments are BASE_PATH MASTER_PORT GPU_NUM, then options"
[[ "$MASTER_PORT" =~ ^[0-9]+$ ]] || die "MASTER_PORT '$MASTER_PORT' is not a port: BASE_PATH MASTER_PORT GPU_NUM come before options"
[[ "$GPU_NUM" =~ ^[1-9][0-9]*$ ]] || die "GPU_NUM '$GPU_NUM' is not a count: BASE_PATH MASTER_PORT GPU_NUM come before options"

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
  PYTHONPATH="$(cd "$BASE_PATH" && pwd)${PYTHONPATH:+:$PYTHONPATH}" "$@"
}

# launch ENTRY_SCRIPT OPTION...: one process is started directly, several by torchrun.
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
  fi
  execute "${command[@]}" "$BASE_PATH/$1" "${@:2}"
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

# stands FOLDER: it holds a file that a script writes when it has finished.
stands() {
  local last
  for last in config.json adapter_config.json velocity_field.json meta.json; do
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
  tool process_data_dolly.py \
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
}

# process_corpus OPTION...: RAW_CORPUS_DIR/data.txt becomes the token store LM_DATA_DIR.
process_corpus() {
  tool process_data_pretrain.py \
    --data-dir "$RAW_CORPUS_DIR" \
    --processed-data-dir "$LM_DATA_DIR" \
    --model-path "$CKPT" \
    --model-type "$MODEL_TYPE" \
    --max-length "$MAX_LENGTH" \
    --dev-num 1000 \
    --train-num 22870 \
    --data-process-workers 32 \
    "$@"
}

# ---- training ----------------------------------------------------------------------------------------------------
# These read the path variables CKPT, TEACHER_CKPT, DATA_DIR, LM_DATA_DIR, VELOCITY_FIELD_PATH and SAVE_PATH.

# What a family adds to every training.
FAMILY_OPTIONS=()

# start_training ENTRY_SCRIPT OPTION...: from CKPT, on DATA_DIR, with the options that every training script shares.
# shellcheck disable=SC2153 # SAVE_PATH is the script's, no misspelt BASE_PATH
start_training() {
  require_model CKPT
  require_folder DATA_DIR "make it with scripts/$FAMILY/tools/process_data_dolly.sh, or set DATA_DIR"
  local options=(
    --model-path "$CKPT"
    --model-type "$MODEL_TYPE"
    --data-dir "$DATA_DIR"
    --save "$SAVE_PATH"
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
  launch "$1" "${options[@]}" "${FAMILY_OPTIONS[@]}" "${@:2}"
}

SAMPLING_OPTIONS=(
  --do-sample
  --temperature 1.0
  --top-p 1.0
  --top-k 0
)

# finetune OPTION...: CKPT learns from DATA_DIR.
finetune() {
  local deepspeed=()
  [[ -z "$DEEPSPEED_CONFIG" ]] || deepspeed=(--deepspeed --deepspeed_config "$DEEPSPEED_CONFIG")
  start_training finetune.py "${SAMPLING_OPTIONS[@]}" "${deepspeed[@]}" "$@"
}

# pretrain OPTION...: CKPT, with random weights, learns the corpus in LM_DATA_DIR; its dev loss chooses the epoch.
pretrain() {
  DATA_DIR="$LM_DATA_DIR" finetune --type lm --eval-gen false "$@"
}

# distill OPTION...: CKPT learns from TEACHER_CKPT, and from the corpus in LM_DATA_DIR unless that is set to nothing.
distill() {
  local corpus=()
  require_model TEACHER_CKPT
  if [[ -n "$LM_DATA_DIR" ]]; then
    require_folder LM_DATA_DIR "make it with scripts/$FAMILY/tools/process_data_pretrain.sh, or set LM_DATA_DIR= to go without"
    corpus=(--lm-data-dir "$LM_DATA_DIR")
  fi
  finetune --teacher-model-path "$TEACHER_CKPT" --kd-ratio 1.0 "${corpus[@]}" "$@"
}

# What an adaptive-* method adds; scripts put it before their own options.
# shellcheck disable=SC2034
ON_POLICY_OPTIONS=(
  --init-threshold 0.0
  --loss-eps 0.1
  --capacity 1000
)

# distill_contra OPTION...: distill, with the velocity field of VELOCITY_FIELD_PATH.
distill_contra() {
  require_folder VELOCITY_FIELD_PATH "run scripts/$FAMILY/train_velocity_field.sh first, or set VELOCITY_FIELD_PATH"
  distill \
    --velocity-field-path "$VELOCITY_FIELD_PATH" \
    --velocity-epochs 1 \
    --velocity-update-interval 1 \
    --num-distill-layers "$NUM_DISTILL_LAYERS" \
    "$@"
}

# train_velocity_field OPTION...: flow matching between CKPT and TEACHER_CKPT, both frozen, on DATA_DIR.
train_velocity_field() {
  require_model TEACHER_CKPT
  start_training train_velocity_field.py \
    --teacher-model-path "$TEACHER_CKPT" \
    --velocity-n-layers "$VELOCITY_N_LAYERS" \
    --velocity-d-model "$VELOCITY_D_MODEL" \
    --num-distill-layers "$NUM_DISTILL_LAYERS" \
    "$@"
}

# ---- evaluation --------------------------------------------------------------------------------------------------

# checkpoint_path CHECKPOINT: a checkpoint is named by its path below $TRAIN, or by any path.
checkpoint_path() {
  local below="$TRAIN/${1#"$TRAIN"/}"
  if stands "$below" || ! stands "$1"; then
    dry_run || stands "$below" || die "no checkpoint '$1': neither $below nor $1 holds a model"
    printf '%s' "$below"
  else
    printf '%s' "$1"
  fi
}

# evaluation_folder PATH: where the results of a checkpoint go; every / of its name becomes _.
evaluation_folder() {
  local name="${1#"$TRAIN"/}"
  name="${name#./}"
  printf '%s' "$RESULTS_DIR/eval_main/${name//\//_}"
}

# evaluate "SET..." CHECKPOINT OPTION...: every set with five seeds, in one process that loads the model once.
evaluate() {
  local sets path
  [[ -n "${2:-}" ]] || die "no checkpoint given: name one below $TRAIN, or a path"
  read -ra sets <<<"$1"
  path="$(checkpoint_path "$2")"
  launch evaluate.py \
    --model-path "$path" \
    --data-dir "$EVAL_DATA_DIR" \
    --data-names "${sets[@]}" \
    --seeds 10 20 30 40 50 \
    --save "$(evaluation_folder "$path")" \
    --eval-batch-size "$EVAL_BATCH_SIZE" \
    --max-length "$MAX_LENGTH" \
    --max-prompt-length "$MAX_PROMPT_LENGTH" \
    --precision "$PRECISION" \
    "${SAMPLING_OPTIONS[@]}" \
    --no-repeat-ngram-size 6 \
    "${@:3}"
}

# ---- runs/ -------------------------------------------------------------------------------------------------------
# A run calls scripts one after the other. One-time steps are skipped when their output stands; a dry run shows them all.

EVALUATION_SETS="dolly self_inst vicuna sinst uinst"

# start_run: environment and data; refuses a path variable that means another path in each script.
start_run() {
  local name
  for name in CKPT SAVE_PATH; do
    [[ -z "${!name:-}" ]] || die "$name belongs to single scripts; for a whole run set TEACHER_BASE, STUDENT_BASE or RESULTS_DIR"
  done
  dry_run || use_environment
  prepare_data
}

# step SCRIPT OPTION...: a script of this family, with this run's three arguments.
step() {
  dry_run || printf '\n== %s scripts/%s/%s\n' "$(date +%H:%M:%S)" "$FAMILY" "$1" >&2
  bash "$BASE_PATH/scripts/$FAMILY/$1" "$BASE_PATH" "$MASTER_PORT" "$GPU_NUM" "${@:2}"
}

# once FOLDER SCRIPT OPTION...: a step that writes FOLDER, unless that stands or is a model on the Hub.
once() {
  if ! dry_run && { stands "$1" || is_hub_id "$1"; }; then
    printf '\n== %s stands: scripts/%s/%s is skipped\n' "$1" "$FAMILY" "$2" >&2
  else
    SAVE_PATH="$1" step "${@:2}"
  fi
}

# together "FUNCTION..." OPTION...: functions that do not depend on each other, at the same time, each with its share of
# the cores; one after the other where a run has several processes of its own.
together() {
  local command commands process processes=() failed=0
  read -ra commands <<<"$1"
  if dry_run || ((GPU_NUM > 1 || NNODES > 1)); then
    for command in "${commands[@]}"; do
      "$command" "${@:2}"
    done
    return
  fi
  local threads=$(($(getconf _NPROCESSORS_ONLN) / ${#commands[@]}))
  for command in "${commands[@]}"; do
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}" "$command" "${@:2}" &
    processes+=("$!")
  done
  for process in "${processes[@]}"; do
    wait "$process" || failed=1
  done
  ((failed == 0)) || die "one of ${commands[*]} failed, see above"
}

# on_first_node COMMAND...: data and evaluation are one node's work; the others wait in the next training.
on_first_node() {
  ((NODE_RANK > 0)) || NNODES=1 "$@"
}

# prepare_data: raw data (the tools leave alone what is there) and both token stores.
prepare_data() {
  on_first_node tool get_instruction_data.py --data-dir "$EVAL_DATA_DIR"
  on_first_node once "$DATA_DIR" tools/process_data_dolly.sh
  if [[ -n "$LM_DATA_DIR" ]] && { dry_run || ! stands "$LM_DATA_DIR"; }; then
    on_first_node tool get_openwebtext.py --data-dir "$RAW_CORPUS_DIR"
    on_first_node step tools/process_data_pretrain.sh
  fi
}

# evaluate_run CHECKPOINT: the five sets with five seeds.
evaluate_run() {
  local options
  read -ra options <<<"${EVAL_OPTIONS:-}"
  on_first_node evaluate "$EVALUATION_SETS" "$1" "${options[@]}"
}

# report "BASELINE..." NAME=CHECKPOINT...: evaluates each, then writes one table and one plot. The table shows the
# differences to the named baselines, too, with intervals.
report() {
  local row baseline name checkpoint sets rows=() runs=() baselines=()
  read -ra sets <<<"$EVALUATION_SETS"
  for baseline in $1; do
    baselines+=(--baseline "$baseline")
  done
  for row in "${@:2}"; do
    name="${row%%=*}" checkpoint="$TRAIN/${row#*=}"
    evaluate_run "$checkpoint"
    rows+=(--row "$name=$(evaluation_folder "$checkpoint")")
    runs+=(--run "$name=$checkpoint")
  done
  rows+=(--data-names "${sets[@]}" --max-length "$MAX_LENGTH")
  on_first_node tool make_results_table.py "${rows[@]}" "${baselines[@]}" \
    --title "Results of the $FAMILY family" \
    --command "bash runs/$FAMILY/${0##*/}" \
    --plot results.png \
    --save "$RESULTS_DIR/README.md"
  on_first_node tool plot_results.py "${rows[@]}" "${runs[@]}" --save "$RESULTS_DIR/results.png"
}
