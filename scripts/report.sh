# shellcheck shell=bash
# How a run ends: it evaluates what it trained, and writes a table and a plot; sourced by runs.sh.

# report: evaluates the chosen rows, then writes RESULTS_DIR/<name of the run>.md and .png. Differences are shown to SFT and
# to each method without CONTRA.
report() {
  local name file results folders sets rows=() runs=() baselines=()
  for name in "${CHOSEN[@]}"; do
    results=()
    folders=()
    if [[ "$name" == Teacher ]]; then
      evaluate_run "$(teacher_folder)"
    else
      each_seed evaluate_row "$name"
    fi
    rows+=(--row "$name=${results[0]}" "${results[@]:1}")
    ((${#folders[@]} == 0)) || runs+=(--run "$name=${folders[0]}" "${folders[@]:1}")
    [[ "$name" == Teacher || "$name" == *CONTRA* ]] || baselines+=(--baseline "$name")
  done
  read -ra sets <<<"$EVALUATION_SETS"
  rows+=("${runs[@]}" --data-names "${sets[@]}" --max-length "$MAX_LENGTH")
  file="${0##*/}"
  file="$RESULTS_DIR/${file%.sh}"
  on_first_node tool make_results_table.py "${rows[@]}" "${baselines[@]}" \
    --title "Results of the $FAMILY family" \
    --command "$MADE_WITH" \
    --plot "${file##*/}.png" \
    --save "$file.md"
  on_first_node tool plot_results.py "${rows[@]}" --save "$file.png"
}

evaluate_row() {
  evaluate_run "$TRAIN/${CHECKPOINT_OF[$1]}"
}

# evaluate_run MODEL: evaluates it, and adds to report's results, and to its folders if a training's log lies there.
evaluate_run() {
  local options
  read -ra options <<<"${EVAL_OPTIONS:-}"
  results+=("$(evaluation_folder "$1")")
  ! { dry_run || [[ -f "$1/log.jsonl" ]]; } || folders+=("$1")
  on_first_node start_evaluation "$EVALUATION_SETS" --model-path "$1" --save "${results[-1]}" "${options[@]}"
}

# ---- what a table says of its making -----------------------------------------------------------------------------

# note_command OPTION...: keeps in MADE_WITH the line that starts this run again, before the run changes any variable.
note_command() {
  local name script words=()
  script="$(cd "$(dirname "$0")" && pwd)/${0##*/}"
  words=(bash "$(quoted "${script#"$REPOSITORY"/}")")
  if [[ "$BASE_PATH $MASTER_PORT $GPU_NUM" != ". 2012 1" ]] || (($# > 0)); then
    for name in "$BASE_PATH" "$MASTER_PORT" "$GPU_NUM" "$@"; do
      words+=("$(quoted "$name")")
    done
  fi
  MADE_WITH="$(given_variables)${words[*]}"
}

# given_variables: NAME=VALUE for each variable that these scripts read from the environment, if it is not the default.
given_variables() {
  local name names common="$BASE_PATH/scripts/$FAMILY/common.sh"
  names="$(grep -hoE '\$\{[A-Z_]+:?-' "$0" "$BASE_PATH"/scripts/{lib,defaults,runs,report}.sh "$common" | tr -cd 'A-Z_\n' | sort -u)"
  for name in $names; do
    if [[ "$name" != DRY_RUN && "$(declare -p "$name" 2>/dev/null)" == "declare -x"* && "${!name}" != "$(default_of "$name")" ]]; then
      printf '%s=%s ' "$name" "$(quoted "${!name}")"
    fi
  done
}

# default_of NAME: its value if the user does not set it; "(unset)", which nobody would set, if it has none.
default_of() {
  unset "$1"
  # shellcheck disable=SC1090
  source "$common" "$BASE_PATH" "$MASTER_PORT" "$GPU_NUM"
  printf '%s' "${!1-(unset)}"
}

# quoted WORD: as one types it in a shell.
quoted() {
  if [[ "$1" =~ ^[A-Za-z0-9_./:=,+-]+$ ]]; then
    printf '%s' "$1"
  else
    printf '%s' "${1@Q}"
  fi
}
