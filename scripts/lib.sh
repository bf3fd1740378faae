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
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
source "$(dirname "${BASH_SOURCE[0]}")/options.sh"
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
source "$(dirname "${BASH_SOURCE[0]}")/evaluation.sh"
source "$(dirname "${BASH_SOURCE[0]}")/runs.sh"
source "$(dirname "${BASH_SOURCE[0]}")/report.sh"

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
  die "BASE_PATH=${BASE_PATH@Q} is not the repository's root: $ARGUMENTS"
check_environment

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

# tool NAME OPTION...: a program of tools/.
tool() {
  execute python3 "$BASE_PATH/tools/$1" "${@:2}"
}

# threads_each COUNT: each process's share of the cores if COUNT share them, unless the user sets OMP_NUM_THREADS.
threads_each() {
  local share=$(($(getconf _NPROCESSORS_ONLN) / $1))
  printf '%s' "${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}"
}

# launch PROGRAM OPTION...: one process directly, several with torchrun. Of an option given twice, the last one counts.
launch() {
  local command=(python3)
  if ((GPU_NUM > 1 || NNODES > 1)); then
    command=(torchrun --nproc_per_node "$GPU_NUM" --nnodes "$NNODES" --node_rank "$NODE_RANK"
      --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT")
    # torchrun would give each of its processes one thread, and kill a stopped training after 30 seconds: the checkpoint
    # of a large model takes longer.
    OMP_NUM_THREADS="$(threads_each "$GPU_NUM")"
    TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}"
    export OMP_NUM_THREADS TORCH_ELASTIC_SHUTDOWN_TIMEOUT
  fi
  keep_last "${@:2}"
  # On a CPU: keep freed memory, which a step would have to fault in again, and use large pages (docs/performance.md).
  export MALLOC_TRIM_THRESHOLD_=1000000000000 MALLOC_MMAP_THRESHOLD_=33554432 THP_MEM_ALLOC_ENABLE=1
  execute "${command[@]}" "$BASE_PATH/$1" "${OPTIONS[@]}"
}

# is_hub_id PATH: `name` or `owner/name`; everything below BASE_PATH starts differently or lies deeper.
is_hub_id() {
  [[ "$1" =~ ^[A-Za-z0-9][^/]*(/[^/]+)?$ && ! -e "$1" ]]
}

# exists FOLDER: it holds a file that a script writes when it has finished; training also writes finished.json.
exists() {
  [[ ! -f "$1/args.json" || -f "$1/finished.json" ]] &&
    [[ -f "$1/config.json" || -f "$1/adapter_config.json" || -f "$1/velocity_field.json" || -f "$1/meta.json" ||
      -f "$1/dataset_dict.json" ]]
}

# require_path VARIABLE: one clear line before Python starts if its folder is missing. A model may be on the Hub.
require_path() {
  local advice="run the script that writes it first (README, 'Model checkpoints')"
  case "$1" in
    *CKPT) ! is_hub_id "${!1}" || return 0 ;;
    LM_DATA_DIR) advice="make it with scripts/$FAMILY/tools/process_data_pretrain.sh, set LM_DATA_DIR= to go without" ;;
    PAIR_DATA_DIR) advice="make it with scripts/$FAMILY/distillm2/generate_data.sh" ;;
    DATA_DIR) advice="make it with a script of scripts/$FAMILY/tools/" ;;
  esac
  dry_run || [[ -d "${!1}" ]] || die "$1='${!1}' is not a folder: $advice, or set $1"
}
