# shellcheck shell=bash
# What a script calls to train a model, or to make the data that it trains on. Sourced by lib.sh.

# put_paths OPTION...: OPTIONS are these, with the path that NAME holds in place of @NAME. An option whose path the
# user has set to nothing is left out.
put_paths() {
  local word name script
  keep_last "${@:1:$#-USER_OPTIONS}"
  script=("${OPTIONS[@]}")
  OPTIONS=()
  for word in "${script[@]}"; do
    name="${word#@}"
    if [[ ! "$word" =~ ^@[A-Z_]+$ ]]; then
      OPTIONS+=("$word")
    elif [[ -z "${!name:-}" && "$name" =~ ^(PEFT_CKPT|TEACHER_PEFT_CKPT|LM_DATA_DIR)$ ]]; then
      unset 'OPTIONS[-1]'
    else
      require_path "$name"
      OPTIONS+=("${!name}")
    fi
  done
  OPTIONS+=("${@:$#-USER_OPTIONS+1}")
}

# train ENTRY_SCRIPT OPTION...: trains CKPT on DATA_DIR and writes SAVE_PATH. An empty DEEPSPEED_CONFIG
# means plain PyTorch.
# shellcheck disable=SC2153 # SAVE_PATH is the script's, not a misspelt BASE_PATH
train() {
  local options=("${TRAINING[@]}" --save "$SAVE_PATH")
  if [[ "$1" == finetune.py ]]; then
    options+=("${SAMPLING[@]}")
    DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG-$ZERO_1}"
    [[ -z "$DEEPSPEED_CONFIG" ]] || options+=(--deepspeed --deepspeed_config "$DEEPSPEED_CONFIG")
  fi
  put_paths "${options[@]}" "${@:2}"
  warn_of_another_batch "${OPTIONS[@]}"
  launch "$1" "${OPTIONS[@]}"
}

# process_data TOOL SOURCE STORE OPTION...: raw data become a token store, with the tokenizer of CKPT.
process_data() {
  keep_last \
    --data-dir "$2" --processed-data-dir "$3" --model-path "$CKPT" --model-type "$MODEL_TYPE" \
    --max-length "$MAX_LENGTH" --data-process-workers 32 "${@:4}"
  tool "$1" "${OPTIONS[@]}"
}

# process_instructions OPTION...: RAW_DATA_DIR/{train,dev}.jsonl (or raw.jsonl) become the token store DATA_DIR.
process_instructions() {
  process_data process_data_dolly.py "$RAW_DATA_DIR" "$DATA_DIR" \
    --max-prompt-length "$MAX_PROMPT_LENGTH" --dev-num "$DEV_NUM" --train-num -1 "$@"
}

# process_corpus OPTION...: RAW_CORPUS_DIR/data.txt becomes the token store LM_DATA_DIR.
process_corpus() {
  process_data process_data_pretrain.py "$RAW_CORPUS_DIR" "$LM_DATA_DIR" --dev-num 1000 --train-num 22870 "$@"
}

# respond SPLIT SIDE OPTION...: one side's responses to the prompts of one split.
respond() {
  put_paths \
    --data "$RAW_DATA_DIR/$1.jsonl" --output "$RESPONSE_DIR/generated_$1_$2.jsonl" \
    --max-prompt-length "$MAX_PROMPT_LENGTH" --max-new-tokens "$RESPONSE_LENGTH" \
    --do-sample --temperature 1.0 --top-p 0.95 --top-k 0 --seed 42 \
    --eval-batch-size "$EVAL_BATCH_SIZE" --precision "$PRECISION" "${@:3}"
  launch tools/generate_responses.py "${OPTIONS[@]}"
}

# generate_pairs OPTION...: TEACHER_CKPT and CKPT respond to every prompt of RAW_DATA_DIR/{train,dev}.jsonl; joined row
# by row, their responses become the pairs SAVE_PATH.
# shellcheck disable=SC2153 # SAVE_PATH is the script's, not a misspelt BASE_PATH
generate_pairs() {
  local split
  for split in train dev; do
    respond "$split" teacher --model-path @TEACHER_CKPT --peft-path @TEACHER_PEFT_CKPT "$@"
    respond "$split" student --model-path @CKPT --peft-path @PEFT_CKPT "$@"
  done
  on_first_node tool build_response_pairs.py --responses "$RESPONSE_DIR" --output "$SAVE_PATH"
}
