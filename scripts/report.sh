# shellcheck shell=bash
# How a run ends: it evaluates what it trained, and writes a table and a plot. Sourced by lib.sh.

# report: evaluates the chosen rows, then writes RESULTS_DIR/<name of the run>.md and .png, with differences from SFT
# and from each method without CONTRA.
report() {
  local name sets file rows=() runs=() baselines=()
  for name in "${CHOSEN[@]}"; do
    evaluate_row "$name"
    rows+=(--row "$name=${RESULTS[0]}" "${RESULTS[@]:1}")
    ((${#LOGS[@]} == 0)) || runs+=(--run "$name=${LOGS[0]}" "${LOGS[@]:1}")
    [[ "$name" == Teacher || "$name" == *CONTRA* ]] || baselines+=(--baseline "$name")
  done
  read -ra sets <<<"$EVALUATION_SETS"
  rows+=("${runs[@]}" --data-names "${sets[@]}" --max-length "$MAX_LENGTH")
  name="$(basename "$0" .sh)"
  file="$OWN_RESULTS_DIR/$name"
  on_first_node tool make_results_table.py "${rows[@]}" "${baselines[@]}" \
    --title "Results of the $FAMILY family" \
    --command "$MADE_WITH" \
    --plot "$name.png" \
    --save "$file.md"
  on_first_node tool plot_results.py "${rows[@]}" --save "$file.png"
}

# evaluate_row ROW: RESULTS are the folders of its results, one per seed; LOGS are those of its training logs.
evaluate_row() {
  local seed seeds="${SEEDS:-$OWN_SEED}" model options
  [[ "$1" != Teacher ]] || seeds="$OWN_SEED"
  read -ra options <<<"${EVAL_OPTIONS:-}"
  RESULTS=()
  LOGS=()
  for seed in $seeds; do
    use_seed "$seed"
    model="$TRAIN/${CHECKPOINT_OF[$1]}"
    [[ "$1" != Teacher ]] || model="$TEACHER"
    RESULTS+=("$(evaluation_folder "$model")")
    ! { dry_run || [[ -f "$model/log.jsonl" ]]; } || LOGS+=("$model")
    on_first_node start_evaluation "$EVALUATION_SETS" --model-path "$model" --save "${RESULTS[-1]}" "${options[@]}"
  done
}

# note_command OPTION...: MADE_WITH is the line that starts this run again; call it before any variable is changed.
note_command() {
  local script words=()
  script="$(realpath -s "$0")"
  words=(bash "${script#"$REPOSITORY"/}")
  if [[ "$BASE_PATH $MASTER_PORT $GPU_NUM" != ". 2012 1" ]] || (($# > 0)); then
    words+=("$BASE_PATH" "$MASTER_PORT" "$GPU_NUM" "$@")
  fi
  MADE_WITH="$(given_variables)$(quoted "${words[@]}")"
}

# given_variables: NAME=VALUE for each variable that the user has set to something other than its default.
given_variables() {
  local name
  for name in $VARIABLES OMP_NUM_THREADS; do
    if [[ "$(declare -p "$name" 2>/dev/null)" == "declare -x"* && "${!name}" != "$(default_of "$name")" ]]; then
      printf '%s=%s ' "$name" "$(quoted "${!name}")"
    fi
  done
}

# default_of NAME: its value if the user does not set it; "(unset)", which nobody would set, if it has none.
default_of() {
  local arguments=("$BASE_PATH" "$MASTER_PORT" "$GPU_NUM")
  unset "$1"
  # shellcheck disable=SC1090
  source "$REPOSITORY/scripts/$FAMILY/common.sh" "${arguments[@]}"
  printf '%s' "${!1-(unset)}"
}

# quoted WORD...: as typed in a shell.
quoted() {
  local word words=()
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,+-]+$ ]] || word="${word@Q}"
    words+=("$word")
  done
  printf '%s' "${words[*]}"
}
