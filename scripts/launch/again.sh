# shellcheck shell=bash disable=SC2034 # sourced by the launchers in this folder
# Exit codes of training processes, and the rule by which all processes are started again.
#
# 0 means done. After 75 (stopped, state saved), 6 (device, memory or another process lost), 134 (ended by JAX's runtime
# because another process was lost), 137 (killed, or its host was lost) and 143 (told to stop before it could handle the
# signal), all processes are started again with the same command, which continues from the newest checkpoint. Any other
# code (2 usage or configuration, 3 data, 4 NaN or infinity, 5 storage, 1 a bug) would only occur again.

MAX_RESTARTS=${MAX_RESTARTS:-3} # in a row without a new checkpoint

# The training command; TRAIN in the environment replaces it.
read -ra train <<<"${TRAIN:-.venv/bin/python scripts/train.py}"

# Set when this shell was told to stop.
stopping=

# run_process FILE COMMAND...: runs the command, writes its exit code to FILE and returns it.
# A launcher that gets only one code for all processes needs the file: srun returns the highest one, and a process that
# ends with 3 because of bad data makes others end with 6, 134 or 137. The shell survives a signal that is sent to both.
run_process() {
  local file=$1 code=0
  shift
  trap 'stopping=1' TERM INT
  "$@" || code=$?
  echo "$code" >"$file"
  return "$code"
}

# outcome FOLDER COUNT: prints one exit code for COUNT processes that wrote theirs into FOLDER: 0 if all are done, the
# first code after which another start would not help, or 75 to run again. A process without a file was killed with its
# shell.
outcome() {
  local count=$2 result=0 code
  # shellcheck disable=SC2046 # one code per line
  set -- $(cat "$1"/* 2>/dev/null)
  [ "$#" -ge "$count" ] || result=75
  for code in "$@"; do
    case $code in
      0) ;;
      6 | 75 | 134 | 137 | 143) result=75 ;;
      *)
        result=$code
        break
        ;;
    esac
  done
  echo "$result"
}

# may_run_again WORKDIR FILE: fails after MAX_RESTARTS calls in a row without a new checkpoint. FILE stores the count.
may_run_again() {
  local newest seen=- count=0
  newest=$(printf '%s\n' "$1"/checkpoints/* | sed -nE 's#.*/([0-9]+)$#\1#p' | sort -n | tail -n 1)
  [ ! -s "$2" ] || read -r seen count <"$2"
  [ "$seen" = "${newest:-none}" ] || count=0
  if [ "$count" -ge "$MAX_RESTARTS" ]; then
    echo "launch: started $count times again without a new checkpoint in $1: giving up" >&2
    rm -f "$2"
    return 1
  fi
  echo "${newest:-none} $((count + 1))" >"$2"
  echo "launch: starting again from checkpoint ${newest:-none} ($((count + 1)) of $MAX_RESTARTS without a new one)" >&2
}
