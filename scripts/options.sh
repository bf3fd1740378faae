# shellcheck shell=bash
# What the options of a command line say. Sourced by lib.sh.

# keep_last OPTION...: sets OPTIONS to these; of an option given several times, the last one is kept, with its values.
keep_last() {
  local index name seen=" " words=()
  OPTIONS=()
  for ((index = $#; index > 0; index--)); do
    words=("${!index}" "${words[@]}")
    [[ "${!index}" == --* ]] || continue
    name="${!index%%=*}"
    name="${name//_/-}"
    name="${name/#--no-/--}" # --no-do-sample overrides --do-sample
    [[ "$seen" == *" $name "* ]] || OPTIONS=("${words[@]}" "${OPTIONS[@]}")
    seen+="$name "
    words=()
  done
  OPTIONS=("${words[@]}" "${OPTIONS[@]}")
}

# count_of OPTION WORD...: the last count that these words give an option; 1 if they give none.
count_of() {
  local count=1
  [[ ! " ${*:2} " =~ .*\ --${1//-/[-_]}[\ =]([1-9][0-9]{0,5})\  ]] || count="${BASH_REMATCH[1]}"
  printf '%s' "$count"
}

# warn_of_another_batch OPTION...: the script's options, then the user's USER_OPTIONS. The recipe's learning rate
# belongs to the script's batch on one GPU.
warn_of_another_batch() {
  local processes=$((GPU_NUM * NNODES)) script=("${@:1:$#-USER_OPTIONS}") size accumulation recipe advice
  recipe=$(($(count_of batch-size "${script[@]}") * $(count_of gradient-accumulation-steps "${script[@]}")))
  size="$(count_of batch-size "$@")"
  accumulation="$(count_of gradient-accumulation-steps "$@")"
  ((size * accumulation * processes != recipe)) || return 0
  if ((recipe % (processes * size) == 0)); then
    advice="pass --gradient-accumulation-steps $((recipe / processes / size))"
  elif ((recipe % processes == 0)); then
    advice="pass --batch-size $((recipe / processes)) --gradient-accumulation-steps 1"
  else
    advice="use a number of processes that divides it"
  fi
  printf '%s: warning: the global batch is %s (batch size %s x accumulation %s x %s processes), but the recipe says %s: %s\n' \
    "${0##*/}" "$((size * accumulation * processes))" "$size" "$accumulation" "$processes" "$recipe" \
    "to keep that, $advice" >&2
}
