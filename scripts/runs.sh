# shellcheck shell=bash
# What the scripts of runs/ call. Sourced by lib.sh.
# A family's common.sh declares its models with `row`. A run names rows, and everything that they need is made.
# One-time steps are skipped if their output exists; a dry run shows them all.

SIDE_BY_SIDE=false # true: one training run leaves cores idle, so two independent ones run at the same time

# ---- what can be trained -----------------------------------------------------------------------------------------

TABLE=() # the names of all rows, in order
declare -A CHECKPOINT_OF=() SCRIPT_OF=() NEEDS_OF=()

# part NAME CHECKPOINT SCRIPT: what rows may need: its folder below $TRAIN, and the script or function that trains it.
part() {
  CHECKPOINT_OF[$1]="$2"
  SCRIPT_OF[$1]="$3"
}

# row NAME CHECKPOINT SCRIPT [NEED...]: a row of the table. Its needs: teacher, student (where distillation starts),
# velocity_field, pairs, pair_velocity_field. The teacher's own row is called Teacher; a row without needs, such as SFT,
# is trained alongside it.
row() {
  part "$1" "$2" "$3"
  TABLE+=("$1")
  NEEDS_OF[$1]="${*:4}"
}

part velocity_field velocity_field train_velocity_field.sh
part pair_velocity_field velocity_field/distillm2 distillm2/train_velocity_field_distillm2.sh

# contains WORD LIST...
contains() {
  local IFS=$'\n'
  [[ $'\n'"${*:2}"$'\n' == *$'\n'"$1"$'\n'* ]]
}

# choose_rows "ROW, ROW, ...": CHOSEN are these rows, in the table's order; NEEDED is what they need.
choose_rows() {
  local name names
  mapfile -t names < <(sed 's/^ *//; s/ *$//; s/ *, */\n/g' <<<"$1")
  for name in "${names[@]}"; do
    contains "$name" "${TABLE[@]}" ||
      die "ROWS: '$name' is not a row of $FAMILY: name some of$(printf ' %s,' "${TABLE[@]}") separated by commas"
  done
  CHOSEN=()
  NEEDED=""
  for name in "${TABLE[@]}"; do
    contains "$name" "${names[@]}" || continue
    CHOSEN+=("$name")
    NEEDED+=" ${NEEDS_OF[$name]} "
  done
}

# needed WHAT: true if some chosen row needs it.
needed() {
  [[ "$NEEDED" == *" $1 "* ]]
}

# ---- steps -------------------------------------------------------------------------------------------------------

# step SCRIPT OPTION...: a script of this family with this run's three arguments, or a function.
step() {
  if declare -F "$1" >/dev/null; then
    "$@"
  else
    dry_run || printf '\n== %s scripts/%s/%s\n' "$(date +%H:%M:%S)" "$FAMILY" "$1" >&2
    attend bash "$BASE_PATH/scripts/$FAMILY/$1" "$BASE_PATH" "$MASTER_PORT" "$GPU_NUM" "${@:2}"
  fi
}

# once FOLDER SCRIPT OPTION...: a step that writes FOLDER, unless that exists or is a model on the Hub.
once() {
  if ! dry_run && { exists "$1" || is_hub_id "$1"; }; then
    printf '\n== %s exists: %s is skipped\n' "$1" "$2" >&2
  else
    SAVE_PATH="$1" step "${@:2}"
  fi
}

# make_part NAME VARIABLE OPTION...: once, unless the user's VARIABLE names what to use instead.
make_part() {
  if [[ -n "$2" && -n "${!2:-}" ]]; then
    require_path "$2"
  else
    once "$TRAIN/${CHECKPOINT_OF[$1]}" "${SCRIPT_OF[$1]}" "${@:3}"
  fi
}

# side_by_side "STEP..." OPTION...: steps that do not depend on each other; at the same time if SIDE_BY_SIDE, each with
# its share of the cores, unless training uses several processes.
side_by_side() {
  local name steps process processes=() failed=0
  read -ra steps <<<"$1"
  for name in "${steps[@]}"; do
    if [[ "$SIDE_BY_SIDE" == false ]] || dry_run || ((GPU_NUM > 1 || NNODES > 1)); then
      step "$name" "${@:2}"
    else
      OMP_NUM_THREADS="$(threads_each ${#steps[@]})" start stoppable step "$name" "${@:2}"
      processes+=("$!")
    fi
  done
  for process in "${processes[@]}"; do
    wait "$process" || failed=1
  done
  ((failed == 0)) || die "one of ${steps[*]} failed; see above"
}

# on_first_node COMMAND...: runs it on the first node only.
on_first_node() {
  ((NODE_RANK > 0)) || NNODES=1 "$@"
}

# once_on_first_node FOLDER SCRIPT OPTION...: once, on the first node only; the others wait for the folder.
once_on_first_node() {
  on_first_node once "$@"
  dry_run || exists "$1" || printf '\n== waiting for the first node to write %s\n' "$1" >&2
  until dry_run || exists "$1"; do
    attend sleep "${WAIT_SECONDS:-10}"
  done
}

# ---- training seeds ----------------------------------------------------------------------------------------------

# This seed stands for the seeds in the scripts; their results are in RESULTS_DIR. The results of any other seed in
# SEEDS are in RESULTS_DIR/seed-<seed>, and its response pairs below RESPONSE_DIR. All share one teacher.
OWN_SEED=10
MORE_OWN_SEEDS=() # the other seeds in scripts of the family

# check_seeds OPTION...: refuses SEEDS that would count one run twice, or that contradict options or variables.
check_seeds() {
  local seed seen=()
  [[ -n "${SEEDS:-}" ]] || return 0
  for seed in $SEEDS; do
    ! contains "$seed" "${seen[@]}" || die "SEEDS='$SEEDS' names $seed twice, which would be the same run"
    ! contains "$seed" "${MORE_OWN_SEEDS[@]}" ||
      die "SEEDS='$SEEDS': some scripts of $FAMILY already use $seed, which belongs to $OWN_SEED; choose another"
    seen+=("$seed")
  done
  ! contains --seed "$@" || die "SEEDS='$SEEDS' sets --seed in each training run: give only one of the two"
  [[ -z "${VELOCITY_FIELD_PATH:-}" ]] || die "VELOCITY_FIELD_PATH fits one student, but SEEDS trains several: unset one"
  [[ "$PAIR_DATA_DIR" == "$RESPONSE_DIR/formatted" ]] ||
    die "PAIR_DATA_DIR holds the answers of one student, but SEEDS trains several: unset one, or set RESPONSE_DIR"
}

# use_seed SEED: from here on, use its folders; SEED_OPTIONS are its training options.
use_seed() {
  local folder=""
  SEED_OPTIONS=()
  [[ -n "${SEEDS:-}" ]] || return 0
  if [[ "$1" != "$OWN_SEED" ]]; then
    folder="/seed-$1"
    SEED_OPTIONS=(--seed "$1")
  fi
  RESULTS_DIR="$OWN_RESULTS_DIR$folder" RESPONSE_DIR="$OWN_RESPONSE_DIR$folder"
  PAIR_DATA_DIR="$RESPONSE_DIR/formatted"
  TRAIN="$RESULTS_DIR/train"
}

# ---- a run -------------------------------------------------------------------------------------------------------

# run_rows "ROW, ROW, ..." OPTION...: trains and evaluates these rows, or the user's ROWS, and ends with their table.
run_rows() {
  start_run "$@"
  report
}

# start_run "ROW, ROW, ..." OPTION...: everything except the table.
start_run() {
  local name seed
  for name in CKPT PEFT_CKPT SAVE_PATH; do # they mean a different path in each script
    [[ -z "${!name+set}" ]] ||
      die "$name belongs to single scripts; for a whole run set TEACHER_BASE, STUDENT_BASE or RESULTS_DIR"
  done
  choose_rows "${ROWS:-$1}"
  shift
  check_seeds "$@"
  note_command "$@"
  dry_run || use_environment
  prepare_data
  choose_teacher
  OWN_RESULTS_DIR="$RESULTS_DIR" OWN_RESPONSE_DIR="$RESPONSE_DIR"
  export RESULTS_DIR RESPONSE_DIR PAIR_DATA_DIR TEACHER_BASE STUDENT_BASE
  side_by_side "prepare_teacher prepare_students" "$@"
  export "$TEACHER_VARIABLE=$TEACHER"
  for seed in ${SEEDS:-$OWN_SEED}; do
    use_seed "$seed"
    distill_rows "$@" "${SEED_OPTIONS[@]}"
  done
}

# prepare_data: raw data (the tools leave existing files alone) and both token stores.
prepare_data() {
  on_first_node tool get_instruction_data.py --data-dir "$EVAL_DATA_DIR"
  once_on_first_node "$DATA_DIR" tools/process_data_dolly.sh
  if [[ -n "$LM_DATA_DIR" ]] && { dry_run || ! exists "$LM_DATA_DIR"; }; then
    on_first_node tool get_openwebtext.py --data-dir "$RAW_CORPUS_DIR"
    once_on_first_node "$LM_DATA_DIR" tools/process_data_pretrain.sh
  fi
}

TEACHER_VARIABLE=TEACHER_CKPT # with LoRA TEACHER_PEFT_CKPT: the teacher is an adapter

# choose_teacher: TEACHER is the user's, or the one in the family's row Teacher. If TEACHER_PEFT_CKPT is set to nothing,
# the teacher is a whole model even in a LoRA family.
choose_teacher() {
  if [[ "$TEACHER_VARIABLE" == TEACHER_PEFT_CKPT && -z "${TEACHER_PEFT_CKPT-adapter}" ]]; then
    TEACHER_VARIABLE=TEACHER_CKPT
    TEACHER_CKPT="${TEACHER_CKPT:-$TEACHER_BASE}"
  fi
  TEACHER="${!TEACHER_VARIABLE:-$TRAIN/${CHECKPOINT_OF[Teacher]}}"
}

# prepare_teacher OPTION...: trains the teacher if a chosen row needs it.
prepare_teacher() {
  ! { needed teacher || contains Teacher "${CHOSEN[@]}"; } || make_part Teacher "$TEACHER_VARIABLE" "$@"
}

STUDENT_BASE_SCRIPT="" # of a family that trains the student's base model, once for all seeds

# prepare_students OPTION...: what each seed trains without a teacher: SFT, and the start of distillation.
prepare_students() {
  local name seed
  [[ -z "$STUDENT_BASE_SCRIPT" ]] || once "$STUDENT_BASE" "$STUDENT_BASE_SCRIPT" "$@"
  for seed in ${SEEDS:-$OWN_SEED}; do
    use_seed "$seed"
    for name in "${CHOSEN[@]}"; do
      [[ "$name" == Teacher || -n "${NEEDS_OF[$name]}" ]] || step "${SCRIPT_OF[$name]}" "$@" "${SEED_OPTIONS[@]}"
    done
    ! needed student || make_part student "" "$@" "${SEED_OPTIONS[@]}"
  done
}

# distill_rows OPTION...: what a seed trains with a teacher. A method does not depend on the same method with CONTRA.
distill_rows() {
  local name scripts=()
  ! needed pairs || once_on_first_node "$PAIR_DATA_DIR" distillm2/generate_data.sh "${SEED_OPTIONS[@]}"
  for name in velocity_field pair_velocity_field; do
    ! needed "$name" || make_part "$name" VELOCITY_FIELD_PATH "$@"
  done
  for name in "${CHOSEN[@]}"; do
    [[ -z "${NEEDS_OF[$name]}" ]] || scripts+=("${SCRIPT_OF[$name]}")
  done
  while ((${#scripts[@]} > 0)); do
    side_by_side "${scripts[*]:0:2}" "$@"
    scripts=("${scripts[@]:2}")
  done
}
