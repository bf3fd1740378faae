# shellcheck shell=bash
# shellcheck disable=SC2034 # read by lib.sh, runs.sh and the family's scripts
# The tiny family: synthetic data, their tokenizer, a teacher and a student that train on a CPU in minutes.
FAMILY=tiny
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

CORPUS_LENGTH="${CORPUS_LENGTH:-64}" # tokens of a chunk

# Everything is made here, nothing is fetched; each folder can be set in the environment.
WORLD="${WORLD:-$BASE_PATH/data/tiny}"
MODELS="${MODELS:-$BASE_PATH/checkpoints/tiny}" # with random weights
RAW_DATA_DIR="${RAW_DATA_DIR:-$WORLD/dolly}"
RAW_CORPUS_DIR="${RAW_CORPUS_DIR:-$WORLD/openwebtext}"
EVAL_DATA_DIR="${EVAL_DATA_DIR:-$WORLD}"
# More rows of the same kind. Exported: in a run DATA_DIR is the student's.
export TEACHER_DATA_DIR="${TEACHER_DATA_DIR:-$BASE_PATH/processed_data/teacher/full/tiny/}"
LM_DATA_DIR="${LM_DATA_DIR-$BASE_PATH/processed_data/openwebtext/tiny/$CORPUS_LENGTH/}"
DEV_NUM="${DEV_NUM:-100}"
MAX_LENGTH="${MAX_LENGTH:-128}"
MAX_PROMPT_LENGTH="${MAX_PROMPT_LENGTH:-64}"
RESPONSE_LENGTH="${RESPONSE_LENGTH:-64}"
EVAL_BATCH_SIZE="${EVAL_BATCH_SIZE:-256}"
NUM_DISTILL_LAYERS="${NUM_DISTILL_LAYERS:-4}"
VELOCITY_N_LAYERS="${VELOCITY_N_LAYERS:-2}"
VELOCITY_D_MODEL="${VELOCITY_D_MODEL:-64}"
PRECISION="${PRECISION:-fp32}" # on every CPU, so that their results can be compared; bf16 takes longer at this size
DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-}" # none: importing DeepSpeed takes as long as a stage of this run
MODEL_TYPE=gpt2
source "$(dirname "${BASH_SOURCE[0]}")/../defaults.sh"

TEACHER_BASE="${TEACHER_BASE:-$TRAIN/base/teacher}"
STUDENT_BASE="${STUDENT_BASE:-$TRAIN/base/student}"
TRAINING+=(
  --batch-size 32
  --eval-batch-size 256
)
DISTILLATION+=(
  --lr 4e-3
  --epochs 26
)
FIELD+=(
  --lr 2e-3
  --epochs 3
)
ON_POLICY+=(
  --init-threshold 0.3 # all three kinds of rows occur in a short run
)

SIDE_BY_SIDE=true
STUDENT_BASE_SCRIPT=pretrain/student.sh
part student init/student init/init_student.sh
row "Teacher" sft/teacher train_teacher
row "SFT" sft/student train_baseline
row "DistiLLM" distillm/student distillm/train.sh teacher student
row "DistiLLM + CONTRA" contra/distillm/student distillm/contra.sh teacher student velocity_field
row "FDD" fdd/student fdd/train.sh teacher student
row "FDD + CONTRA" contra/fdd/student fdd/contra.sh teacher student velocity_field
row "DistiLLM-2" distillm2/student distillm2/train.sh teacher student pairs
row "DistiLLM-2 + CONTRA" contra/distillm2/student distillm2/contra.sh teacher student pairs pair_velocity_field

prepare_data() {
  on_first_node step tools/make_world.sh
  once_on_first_node "$MODELS/teacher" tools/make_models.sh
  once_on_first_node "$DATA_DIR" tools/process_data_dolly.sh
  once_on_first_node "$TEACHER_DATA_DIR" tools/process_data_teacher.sh
  once_on_first_node "$LM_DATA_DIR" tools/process_data_pretrain.sh
}

train_teacher() {
  once "$TEACHER_BASE" pretrain/teacher.sh "$@"
  step sft/sft_teacher.sh "$@"
}

# SFT is the best of three learning rates on the dev set.
train_baseline() {
  local lr runs=()
  for lr in 2e-3 4e-3 8e-3; do
    runs+=("$TRAIN/sft/student-$lr")
    once "$TRAIN/sft/student-$lr" sft/sft_student.sh --lr "$lr" "$@"
  done
  on_first_node tool keep_best_run.py --runs "${runs[@]}" --save "$TRAIN/sft/student"
}
