# shellcheck shell=bash
# What the scripts of eval/ call, and which folder a checkpoint's results go to. Sourced by lib.sh.

EVALUATION_SETS="dolly self_inst vicuna sinst uinst"

# below FOLDER PATH: prints PATH relative to FOLDER, whatever links either contains; fails if PATH is not below FOLDER.
below() {
  local folder path parent
  folder="$(realpath -ms -- "$1")"
  path="$(realpath -ms -- "$2")"
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
  if ! exists "$path" && { exists "$1" || [[ "$1" == [./]* ]] || below "$TRAIN" "$1" >/dev/null; }; then
    path="$1"
  fi
  dry_run || exists "$path" || die "no checkpoint '$1': neither $TRAIN/$1 nor $1 holds a model"
  ! name="$(below "$TRAIN" "$path")" || path="$TRAIN/$name"
  printf '%s' "$path"
}

# evaluation_folder PATH: where the results of a checkpoint go, however it is named: its path below $TRAIN, else below
# the repository, else from the root, with every / replaced by _.
evaluation_folder() {
  local real name
  real="$(realpath -m -- "$1")"
  name="$(below "$TRAIN" "$1" || below "$TRAIN" "$real" || below "$REPOSITORY" "$real" || printf '%s' "$real")"
  printf '%s' "$RESULTS_DIR/eval_main/${name//\//_}"
}

# evaluate "SET..." CHECKPOINT OPTION...: a model on every set.
evaluate() {
  local CHECKPOINT="${2:-}" path
  [[ -n "$CHECKPOINT" ]] || die "no checkpoint given: name one below $TRAIN, or a path"
  require_paths CHECKPOINT
  path="$(checkpoint_path "$CHECKPOINT")"
  start_evaluation "$1" --model-path "$path" --save "$(evaluation_folder "$path")" "${@:3}"
}

# evaluate_on GPU_IDX CHECKPOINT OPTION...: a model on all sets, on that GPU.
evaluate_on() {
  local GPU_IDX="${1:-0}"
  require_each GPU_IDX '-1|[0-9]+(,[0-9]+)*|(GPU|MIG)-[A-Za-z0-9,-]+' \
    "the index of a GPU: the arguments are GPU_IDX CKPT_PATH, then options"
  export CUDA_VISIBLE_DEVICES="$GPU_IDX"
  evaluate "$EVALUATION_SETS" "${@:2}"
}

# evaluate_adapter "SET..." NAME ADAPTER BASE_MODEL OPTION...: an adapter on every set. Its results are named after the
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

# start_evaluation "SET..." OPTION...: five seeds on every set, in one process that loads the model once.
start_evaluation() {
  local sets
  read -ra sets <<<"$1"
  launch evaluate.py \
    --data-dir "$EVAL_DATA_DIR" --data-names "${sets[@]}" --seeds 10 20 30 40 50 \
    --max-length "$MAX_LENGTH" --max-prompt-length "$MAX_PROMPT_LENGTH" "${SAMPLING[@]}" --no-repeat-ngram-size 6 \
    --eval-batch-size "$EVAL_BATCH_SIZE" --precision "$PRECISION" "${@:2}"
}
