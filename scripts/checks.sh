# shellcheck shell=bash
# What arguments and environment variables may hold. Sourced by lib.sh, which checks them before anything reads
# them: bash executes code in a variable that it uses in arithmetic.

VARIABLES="" # all that were checked

# require_each "NAME..." PATTERN MEANING: each of these variables is empty, or matches PATTERN as a whole.
require_each() {
  local name
  VARIABLES+=" $1"
  for name in $1; do
    [[ -z "${!name:-}" || "${!name}" =~ ^($2)$ ]] || die "$name=${!name@Q} is not $3"
  done
}

require_paths() {
  require_each "$1" '[^-[:cntrl:]][^[:cntrl:]]*' "a path without a leading '-' or control characters"
}

COUNT='[1-9][0-9]{0,8}'
ARGUMENTS="the arguments are BASE_PATH MASTER_PORT GPU_NUM, then options"

check_environment() {
  require_each MASTER_PORT '[1-9][0-9]{0,4}' "a port from 1 to 65535: $ARGUMENTS"
  ((${MASTER_PORT:-1} <= 65535)) || die "MASTER_PORT='$MASTER_PORT' is not a port from 1 to 65535: $ARGUMENTS"
  require_each GPU_NUM '[1-9][0-9]{0,2}' "a count from 1 to 999: $ARGUMENTS"
  require_each NNODES '[1-9][0-9]{0,3}' "a count from 1 to 9999"
  require_each NODE_RANK '0|[1-9][0-9]{0,3}' "a number of at least 0"
  ((${NODE_RANK:-0} < ${NNODES:-1})) || die "NODE_RANK='$NODE_RANK' is not below NNODES='${NNODES:-1}': nodes count from 0"
  require_each MASTER_ADDR '[][A-Za-z0-9:][][A-Za-z0-9.:_%-]*' "a host name or address"
  require_each PRECISION 'auto|bf16|fp16|fp32' "auto, bf16, fp16 or fp32"
  require_each WAIT_SECONDS '[0-9]{1,5}(\.[0-9]+)?' "a number of seconds"
  require_each VALUES " *$COUNT( +$COUNT)* *" "numbers separated by spaces"
  require_each SEEDS " *(0|$COUNT)( +(0|$COUNT))* *" "numbers separated by spaces"
  require_each ROWS '[^[:cntrl:]]+' "row names on one line"
  require_each EVAL_OPTIONS ' *--[a-z][^[:cntrl:]]*' "options on one line"
  require_each "MAX_LENGTH MAX_PROMPT_LENGTH RESPONSE_LENGTH CORPUS_LENGTH EVAL_BATCH_SIZE NUM_DISTILL_LAYERS
    VELOCITY_N_LAYERS VELOCITY_D_MODEL TEST_ROWS TEACHER_EPOCHS INIT_EPOCHS EPOCHS SFT_EPOCHS FIELD_EPOCHS" \
    "$COUNT" "a count from 1 to 999999999"
  require_each "DEV_NUM TRAIN_ROWS DEV_ROWS HEAL_CHUNKS" "-1|$COUNT" "a count from 1 to 999999999, or -1 for all"
  require_paths "CKPT PEFT_CKPT TEACHER_CKPT TEACHER_PEFT_CKPT TEACHER_BASE STUDENT_BASE PRUNED_BASE VELOCITY_FIELD_PATH
    SAVE_PATH RESULTS_DIR DATA_DIR TEACHER_DATA_DIR LM_DATA_DIR PAIR_DATA_DIR RESPONSE_DIR RAW_DATA_DIR
    RAW_CORPUS_DIR EVAL_DATA_DIR MODELS WORLD DEEPSPEED_CONFIG"
}
