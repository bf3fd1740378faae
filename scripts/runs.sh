# shellcheck shell=bash
# What the scripts of runs/ are made of; sourced by lib.sh.
# A run calls scripts one after the other. One-time steps are skipped when their output stands; a dry run shows them all.
# Its common.sh has a function prepare_<what> for each, and names in RESULT_ROWS the checkpoints of the family's table.

EVALUATION_SETS="dolly self_inst vicuna sinst uinst"

# start_run "WHAT..." OPTION...: environment and data, then prepare_<what> for each; refuses a path variable that means
# another path in each script.
start_run() {
  local name
  for name in CKPT PEFT_CKPT SAVE_PATH; do
    [[ -z "${!name+set}" ]] || die "$name belongs to single scripts; for a whole run set TEACHER_BASE, STUDENT_BASE or RESULTS_DIR"
  done
  dry_run || use_environment
  prepare_data
  for name in $1; do
    "prepare_$name" "${@:2}"
  done
}

# step SCRIPT OPTION...: a script of this family, with this run's three arguments.
step() {
  dry_run || printf '\n== %s scripts/%s/%s\n' "$(date +%H:%M:%S)" "$FAMILY" "$1" >&2
  attend bash "$BASE_PATH/scripts/$FAMILY/$1" "$BASE_PATH" "$MASTER_PORT" "$GPU_NUM" "${@:2}"
}

# once FOLDER SCRIPT OPTION...: a step that writes FOLDER, unless that stands or is a model on the Hub.
once() {
  if ! dry_run && { stands "$1" || is_hub_id "$1"; }; then
    printf '\n== %s stands: scripts/%s/%s is skipped\n' "$1" "$FAMILY" "$2" >&2
  else
    SAVE_PATH="$1" step "${@:2}"
  fi
}

# once_unless_given VARIABLE FOLDER SCRIPT OPTION...: once, unless the user's VARIABLE names what to take instead.
once_unless_given() {
  if [[ -n "${!1:-}" ]]; then
    require_model "$1"
  else
    once "${@:2}"
  fi
}

# together "COMMAND..." OPTION...: functions, or scripts of this family, that do not depend on each other, at the same time,
# each with its share of the cores; one after the other where a run has several processes of its own.
together() {
  local command commands process processes=() failed=0
  read -ra commands <<<"$1"
  if dry_run || ((GPU_NUM > 1 || NNODES > 1)); then
    for command in "${commands[@]}"; do
      function_or_step "$command" "${@:2}"
    done
    return
  fi
  local threads=$(($(getconf _NPROCESSORS_ONLN) / ${#commands[@]}))
  for command in "${commands[@]}"; do
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}" \
      start stoppable function_or_step "$command" "${@:2}"
    processes+=("$!")
  done
  for process in "${processes[@]}"; do
    wait "$process" || failed=1
  done
  ((failed == 0)) || die "one of ${commands[*]} failed, see above"
}

function_or_step() {
  if declare -F "$1" >/dev/null; then
    "$@"
  else
    step "$@"
  fi
}

# on_first_node COMMAND...: what is one node's work.
on_first_node() {
  ((NODE_RANK > 0)) || NNODES=1 "$@"
}

# once_on_first_node FOLDER SCRIPT OPTION...: once, as one node's work; the others wait for the folder.
once_on_first_node() {
  on_first_node once "$@"
  dry_run || stands "$1" || printf '\n== waiting for the first node to write %s\n' "$1" >&2
  until dry_run || stands "$1"; do
    sleep "${WAIT_SECONDS:-10}"
  done
}

# prepare_data: raw data (the tools leave alone what is there) and both token stores.
prepare_data() {
  on_first_node tool get_instruction_data.py --data-dir "$EVAL_DATA_DIR"
  once_on_first_node "$DATA_DIR" tools/process_data_dolly.sh
  if [[ -n "$LM_DATA_DIR" ]] && { dry_run || ! stands "$LM_DATA_DIR"; }; then
    on_first_node tool get_openwebtext.py --data-dir "$RAW_CORPUS_DIR"
    once_on_first_node "$LM_DATA_DIR" tools/process_data_pretrain.sh
  fi
}

# CONTRA's field, on the instruction data and on response pairs, and those pairs.
prepare_velocity_field() {
  once_unless_given VELOCITY_FIELD_PATH "$TRAIN/velocity_field" train_velocity_field.sh "$@"
}

prepare_pairs() {
  once_on_first_node "$PAIR_DATA_DIR" distillm2/generate_data.sh
}

prepare_pair_velocity_field() {
  once_unless_given VELOCITY_FIELD_PATH "$TRAIN/velocity_field/distillm2" \
    distillm2/train_velocity_field_distillm2.sh "$@"
}

# The rows that the table shows the differences to, with intervals.
BASELINES=()

# report CHECKPOINT...: evaluates these, then writes one table and one plot of all of RESULT_ROWS that are evaluated.
report() {
  local row checkpoint options sets script rows=() runs=() baselines=()
  read -ra options <<<"${EVAL_OPTIONS:-}"
  read -ra sets <<<"$EVALUATION_SETS"
  for checkpoint in "$@"; do
    on_first_node evaluate "$EVALUATION_SETS" "$TRAIN/$checkpoint" "${options[@]}"
  done
  for row in "${RESULT_ROWS[@]}"; do
    checkpoint="$TRAIN/${row#*=}"
    rows+=(--row "${row%%=*}=$(evaluation_folder "$checkpoint")")
    runs+=(--run "${row%%=*}=$checkpoint")
  done
  for row in "${BASELINES[@]}"; do
    baselines+=(--baseline "$row")
  done
  rows+=(--skip-missing --data-names "${sets[@]}" --max-length "$MAX_LENGTH")
  script="$(cd "$(dirname "$0")" && pwd)/${0##*/}"
  on_first_node tool make_results_table.py "${rows[@]}" "${baselines[@]}" \
    --title "Results of the $FAMILY family" \
    --command "bash ${script#"$REPOSITORY"/}" \
    --plot results.png \
    --save "$REPORT_DIR/README.md"
  on_first_node tool plot_results.py "${rows[@]}" "${runs[@]}" --save "$REPORT_DIR/results.png"
}
