# shellcheck shell=bash
# What the scripts of runs/ are made of; sourced by lib.sh.
# A family's common.sh says with `row` which models it knows; a run names those of its table, and what they need is made.
# One-time steps are skipped if their output exists; a dry run shows them all.

EVALUATION_SETS="dolly self_inst vicuna sinst uinst"

# ---- the rows of a table -----------------------------------------------------------------------------------------

RESULT_ROWS=()
declare -A CHECKPOINT_OF=() SCRIPT_OF=() NEEDS_OF=()

# row NAME CHECKPOINT SCRIPT [NEED...]: a model, its folder below $TRAIN, the script or function that trains it, and what
# that reads: teacher, student (where distillation starts), velocity_field, pairs, pair_velocity_field. The teacher's own
# row is called Teacher; what needs no teacher, such as SFT, is trained beside it.
row() {
  RESULT_ROWS+=("$1")
  CHECKPOINT_OF[$1]="$2"
  SCRIPT_OF[$1]="$3"
  NEEDS_OF[$1]="${*:4}"
}

# contains WORD LIST...
contains() {
  local word
  for word in "${@:2}"; do
    [[ "$word" != "$1" ]] || return 0
  done
  return 1
}

# choose_rows ROW...: these, or those that the user's ROWS names, in the family's order, become CHOSEN.
choose_rows() {
  local name names wanted=("$@")
  if [[ -n "${ROWS:-}" ]]; then
    wanted=()
    IFS=, read -ra names <<<"$ROWS"
    for name in "${names[@]}"; do
      read -r name <<<"$name" # without the spaces around it
      contains "$name" "${RESULT_ROWS[@]}" ||
        die "ROWS: '$name' is no row of $FAMILY: name some of$(printf ' %s,' "${RESULT_ROWS[@]}") with commas between"
      wanted+=("$name")
    done
  fi
  CHOSEN=()
  for name in "${RESULT_ROWS[@]}"; do
    ! contains "$name" "${wanted[@]}" || CHOSEN+=("$name")
  done
}

# needed WHAT: true if some chosen row needs it.
needed() {
  local name
  for name in "${CHOSEN[@]}"; do
    [[ " ${NEEDS_OF[$name]} " != *" $1 "* ]] || return 0
  done
  return 1
}

# ---- training seeds ----------------------------------------------------------------------------------------------

# This seed means the seeds that are written in the scripts; their results are in RESULTS_DIR. The results of any other
# of the user's SEEDS are in RESULTS_DIR/seed-<seed>, and its response pairs below RESPONSE_DIR. All share one teacher.
OWN_SEED=10
MORE_OWN_SEEDS=() # the other seeds in scripts of the family
SEED_OPTIONS=()

# check_seeds OPTION...: refuses SEEDS that would count one training twice, or that contradict options or variables.
check_seeds() {
  local seed seen=()
  [[ -n "${SEEDS:-}" ]] || return 0
  for seed in $SEEDS; do
    ! contains "$seed" "${seen[@]}" || die "SEEDS='$SEEDS' names $seed twice: the same training is no other run"
    ! contains "$seed" "${MORE_OWN_SEEDS[@]}" ||
      die "SEEDS='$SEEDS': $seed is what some scripts of $FAMILY use as their own, which $OWN_SEED stands for; take another"
    seen+=("$seed")
  done
  ! contains --seed "$@" || die "--seed is one of SEEDS='$SEEDS' in each training: pass one of both"
  [[ -z "${VELOCITY_FIELD_PATH:-}" ]] || die "VELOCITY_FIELD_PATH leads from one student, SEEDS train several: unset one"
  [[ "$PAIR_DATA_DIR" == "$RESPONSE_DIR/formatted" ]] ||
    die "PAIR_DATA_DIR holds the answers of one student, SEEDS train several: unset one, or set RESPONSE_DIR"
}

# each_seed COMMAND...: a function, for each training seed, with that seed's folders and SEED_OPTIONS.
each_seed() {
  local seed
  for seed in ${SEEDS:-$OWN_SEED}; do
    in_seed "$seed" "$@"
  done
}

in_seed() {
  if [[ "$1" == "$OWN_SEED" ]]; then
    "${@:2}"
    return
  fi
  whole_teacher || local -x "$TEACHER_VARIABLE=$(teacher_folder)"
  local -x TEACHER_BASE="$TEACHER_BASE" STUDENT_BASE="$STUDENT_BASE"
  local -x RESULTS_DIR="$RESULTS_DIR/seed-$1" RESPONSE_DIR="$RESPONSE_DIR/seed-$1"
  local -x PAIR_DATA_DIR="$RESPONSE_DIR/formatted"
  local TRAIN="$RESULTS_DIR/train" SEED_OPTIONS=(--seed "$1")
  "${@:2}"
}

# ---- a run -------------------------------------------------------------------------------------------------------

# run_rows ROW... -- OPTION...: trains and evaluates these rows, or ROWS, and ends with their table.
run_rows() {
  start_run "$@"
  report
}

# start_run ROW... -- OPTION...: everything but the table. Path variables that mean another path in each script are refused.
start_run() {
  local name rows=()
  for name in CKPT PEFT_CKPT SAVE_PATH; do
    [[ -z "${!name+set}" ]] || die "$name belongs to single scripts; for a whole run set TEACHER_BASE, STUDENT_BASE or RESULTS_DIR"
  done
  while [[ "$1" != -- ]]; do
    rows+=("$1")
    shift
  done
  shift
  choose_rows "${rows[@]}"
  check_seeds "$@"
  note_command "$@"
  dry_run || use_environment
  prepare_data
  "$SIDE_BY_SIDE" "prepare_teacher prepare_students" "$@"
  each_seed distill_rows "$@"
}

# What each seed trains without a teacher: SFT, and where distillation starts.
prepare_students() {
  prepare_student_base "$@"
  each_seed train_alone "$@"
}

train_alone() {
  local name
  set -- "$@" "${SEED_OPTIONS[@]}"
  for name in "${CHOSEN[@]}"; do
    [[ "$name" == Teacher || -n "${NEEDS_OF[$name]}" ]] || function_or_step "${SCRIPT_OF[$name]}" "$@"
  done
  ! needed student || prepare_student "$@"
}

# What each seed trains with a teacher; a method and the same method with CONTRA do not depend on each other.
distill_rows() {
  local name scripts=()
  set -- "$@" "${SEED_OPTIONS[@]}"
  for name in velocity_field pairs pair_velocity_field; do
    ! needed "$name" || "prepare_$name" "$@"
  done
  for name in "${CHOSEN[@]}"; do
    [[ -z "${NEEDS_OF[$name]}" ]] || scripts+=("${SCRIPT_OF[$name]}")
  done
  while ((${#scripts[@]} > 0)); do
    "$SIDE_BY_SIDE" "${scripts[*]:0:2}" "$@"
    scripts=("${scripts[@]:2}")
  done
}

# ---- steps -------------------------------------------------------------------------------------------------------

# step SCRIPT OPTION...: a script of this family, with this run's three arguments.
step() {
  dry_run || printf '\n== %s scripts/%s/%s\n' "$(date +%H:%M:%S)" "$FAMILY" "$1" >&2
  attend bash "$BASE_PATH/scripts/$FAMILY/$1" "$BASE_PATH" "$MASTER_PORT" "$GPU_NUM" "${@:2}"
}

# once FOLDER SCRIPT OPTION...: a script or function that writes FOLDER, unless that exists or is a model on the Hub.
once() {
  if ! dry_run && { stands "$1" || is_hub_id "$1"; }; then
    printf '\n== %s stands: %s is skipped\n' "$1" "$2" >&2
  else
    SAVE_PATH="$1" function_or_step "${@:2}"
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

# in_turn "COMMAND..." OPTION...: functions, or scripts of this family, one after the other.
in_turn() {
  local command commands
  read -ra commands <<<"$1"
  for command in "${commands[@]}"; do
    function_or_step "$command" "${@:2}"
  done
}

# How independent trainings run: in_turn, or together if one training leaves cores idle.
SIDE_BY_SIDE=in_turn

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

# on_first_node COMMAND...: runs it on the first node only.
on_first_node() {
  ((NODE_RANK > 0)) || NNODES=1 "$@"
}

# once_on_first_node FOLDER SCRIPT OPTION...: once, on the first node only; the others wait for the folder.
once_on_first_node() {
  on_first_node once "$@"
  dry_run || stands "$1" || printf '\n== waiting for the first node to write %s\n' "$1" >&2
  until dry_run || stands "$1"; do
    attend sleep "${WAIT_SECONDS:-10}"
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

# The teacher is the user's, or the one in the family's row Teacher. With LoRA it is an adapter; an empty
# TEACHER_PEFT_CKPT means that it is a whole model.
TEACHER_VARIABLE=TEACHER_CKPT

whole_teacher() {
  [[ "$TEACHER_VARIABLE" == TEACHER_PEFT_CKPT && -z "${TEACHER_PEFT_CKPT-default}" ]]
}

teacher_folder() {
  if whole_teacher; then
    printf '%s' "${TEACHER_CKPT:-$TEACHER_BASE}"
  else
    printf '%s' "${!TEACHER_VARIABLE:-$TRAIN/${CHECKPOINT_OF[Teacher]}}"
  fi
}

prepare_teacher() {
  if ! whole_teacher && { needed teacher || contains Teacher "${CHOSEN[@]}"; }; then
    once_unless_given "$TEACHER_VARIABLE" "$TRAIN/${CHECKPOINT_OF[Teacher]}" "${SCRIPT_OF[Teacher]}" "$@"
  fi
}

# The student's base model exists already, unless a family trains it, once for all seeds.
prepare_student_base() {
  :
}

# CONTRA's field, on the instruction data and on response pairs, and those pairs.
prepare_velocity_field() {
  once_unless_given VELOCITY_FIELD_PATH "$TRAIN/velocity_field" train_velocity_field.sh "$@"
}

prepare_pairs() {
  once_on_first_node "$PAIR_DATA_DIR" distillm2/generate_data.sh "${SEED_OPTIONS[@]}"
}

prepare_pair_velocity_field() {
  once_unless_given VELOCITY_FIELD_PATH "$TRAIN/velocity_field/distillm2" \
    distillm2/train_velocity_field_distillm2.sh "$@"
}

source "$(dirname "${BASH_SOURCE[0]}")/report.sh"
