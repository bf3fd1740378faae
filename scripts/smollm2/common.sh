# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The smollm2 family: a real pretrained model on a CPU. Teacher SmolLM2-135M-Instruct (30 blocks), student 10 of its blocks.
FAMILY=smollm2
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

# How much of everything: the defaults take roughly 45 minutes on two cores (added up from stages).
HEAL_CHUNKS="${HEAL_CHUNKS:-1000}" # of the corpus, for the pruned student
TRAIN_ROWS="${TRAIN_ROWS:-160}"
DEV_ROWS="${DEV_ROWS:-32}"
TEST_ROWS="${TEST_ROWS:-100}"
MAX_LENGTH="${MAX_LENGTH:-192}"
MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-128}"
CORPUS_LENGTH="${CORPUS_LENGTH:-64}"
TEACHER_EPOCHS="${TEACHER_EPOCHS:-1}"
INIT_EPOCHS="${INIT_EPOCHS:-1}"
EPOCHS="${EPOCHS:-2}" # of distillation
SFT_EPOCHS="${SFT_EPOCHS:-$((INIT_EPOCHS + EPOCHS))}" # the baseline: as many steps as init and distillation together
FIELD_EPOCHS="${FIELD_EPOCHS:-1}"

# Base models (Hub ids or folders) and folders; each can be set in the environment.
MODELS="${MODELS:-$BASE_PATH/checkpoints/smollm2}"
TEACHER_BASE="${TEACHER_BASE:-HuggingFaceTB/SmolLM2-135M-Instruct}"
PRUNED_BASE="${PRUNED_BASE:-$MODELS/smollm2-64M}"
EVAL_DATA_DIR="${EVAL_DATA_DIR:-$BASE_PATH/data/smollm2}" # RAW_DATA_DIR with a test set
LM_DATA_DIR="${LM_DATA_DIR-$BASE_PATH/processed_data/openwebtext/smollm2/$CORPUS_LENGTH/}"
DEV_NUM="$DEV_ROWS"
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-100}"
VELOCITY_N_LAYERS="${VELOCITY_N_LAYERS:-2}"
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-256}"
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-}"
MODEL_TYPE=llama
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"

STUDENT_BASE="${STUDENT_BASE:-$TRAIN/base/smollm2-64M}"
EVALUATION_SETS=dolly
TRAINING+=(
  --train-num "$TRAIN_ROWS"
  --batch-size 8
  --eval-batch-size 32
)
DISTILLATION+=(
  --lr 5e-4
  --epochs "$EPOCHS"
)
FIELD+=(
  --lr 5e-4
  --epochs "$FIELD_EPOCHS"
)

STUDENT_BASE_SCRIPT=pretrain/heal_student.sh
part student init/smollm2-64M init/init_student.sh
row "Teacher" sft/smollm2-135M sft/sft_teacher.sh
row "SFT" sft/smollm2-64M sft/sft_student.sh
row "DistiLLM" distillm/64M_135M distillm/train.sh teacher student
row "DistiLLM + CONTRA" contra/distillm/64M_135M distillm/contra.sh teacher student velocity_field

# Sizes may differ from run to run, so existing data are not reused: they are processed again, which takes seconds.
prepare_data() {
  [[ -f "$RAW_DATA_DIR/train.jsonl" ]] || on_first_node tool get_instruction_data.py --data-dir "$BASE_PATH/data"
  on_first_node step tools/hold_out_test_rows.sh
  on_first_node step tools/process_data_dolly.sh
  if [[ -n "$LM_DATA_DIR" ]]; then
    [[ -f "$RAW_CORPUS_DIR/data.txt" ]] || on_first_node tool get_openwebtext.py --data-dir "$RAW_CORPUS_DIR"
    on_first_node step tools/process_data_pretrain.sh
  fi
  once_on_first_node "$PRUNED_BASE" tools/prune_student.sh
}
