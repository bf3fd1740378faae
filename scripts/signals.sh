# shellcheck shell=bash
# What a signal to a script does: it is passed on to the commands that the script has started; the script waits for them
# and ends. Sourced by environment.sh.

# start COMMAND...: in the background. In a process group of its own, so that a signal to the script's whole group
# reaches it once, through `stop`: torchrun abandons its processes when it gets a second one.
start() {
  set -m
  "$@" </dev/null &
  set +m
}

# attend COMMAND...: starts it and waits for it. While a command runs in the foreground, bash handles no signal.
attend() {
  start "$@"
  wait "$!"
}

# stop NUMBER: after signal NUMBER, stops what was started and exits with 128 + NUMBER. It always sends SIGTERM:
# torchrun passes no other signal on.
stop() {
  local group
  trap '' HUP INT QUIT TERM USR1
  for group in $(jobs -p); do
    kill -TERM -- "-$group" 2>/dev/null || true # it may have ended
  done
  wait
  exit $((128 + $1))
}

# stoppable COMMAND...: for a subshell, which forgets its parent's traps.
stoppable() {
  catch_signals
  "$@"
}

catch_signals() {
  local name
  for name in HUP INT QUIT TERM USR1; do
    # shellcheck disable=SC2064 # the number is known now
    trap "stop $(kill -l "$name")" "$name"
  done
}

catch_signals
