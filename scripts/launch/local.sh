#!/usr/bin/env bash
# Runs several training processes on this machine, each with simulated CPU devices, to try out a cluster without one.
#
#   bash scripts/launch/local.sh 2 configs/shapes_tiny.py --workdir runs/two --data.train runs/quickstart/data:train
#
# The first argument is the number of processes, and the others are for scripts/train.py; paths are relative to the
# checkout. JAX_NUM_CPU_DEVICES (default 4) is the number of devices per process. Process 0 prints here, and process N
# to WORKDIR/process-N.log. All are started again by the rule in again.sh and continue from the newest checkpoint.
# After SIGTERM or Ctrl-C they save their state, and this script ends with 75. The same command then continues the run,
# also with another number of processes.
set -uo pipefail
set -m # each process leads its own group, so that Ctrl-C reaches only this script
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
source scripts/launch/again.sh

usage() {
  echo "usage: bash scripts/launch/local.sh NUM_PROCESSES configs/NAME.py --workdir DIR ..." >&2
  exit 2
}
processes=${1:-}
[[ $processes =~ ^[1-9][0-9]*$ ]] || usage
shift
workdir=
for ((i = 1; i <= $#; i++)); do
  next=$((i + 1))
  case ${!i} in
    --workdir) workdir=${!next:-} ;;
    --workdir=*) workdir=${!i#*=} ;;
  esac
done
[ -n "$workdir" ] || usage
codes=$workdir/exit_codes
grace=60 # seconds from the first process that fails to the end of the others; more than the heartbeat
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-4}

start() { # ID ARGUMENTS...
  run_process "$codes/$1" "${train[@]}" "${@:2}" --distributed.coordinator "localhost:$port" \
    --distributed.num-processes "$processes" --distributed.process-id "$1" </dev/null
}
signal_all() {
  local child
  for child in "${children[@]}"; do kill "-$1" -- "-$child" 2>/dev/null; done
}
trap 'stopping=1; signal_all TERM' TERM INT

children=()
rm -f "$workdir/restarts"
while :; do
  rm -rf "$codes"
  mkdir -p "$codes" || exit 5
  port=$((20000 + RANDOM % 10000))
  start 0 "$@" &
  children=($!)
  for ((i = 1; i < processes; i++)); do
    start "$i" "$@" >>"$workdir/process-$i.log" 2>&1 &
    children+=($!)
  done
  deadline=
  while [ -n "$(jobs -pr)" ]; do
    # A process that ends before it has connected leaves the others waiting.
    [ -n "$deadline" ] || ! cat "$codes"/* 2>/dev/null | grep -qvx 0 || deadline=$((SECONDS + grace))
    [ -z "$deadline" ] || [ "$SECONDS" -lt "$deadline" ] || signal_all KILL
    sleep 0.2
  done
  code=$(outcome "$codes" "$processes")
  echo "launch: $processes processes ended with $(cat "$codes"/* 2>/dev/null | xargs)" >&2
  if [ -n "$stopping" ] || [ "$code" != 75 ] || ! may_run_again "$workdir" "$workdir/restarts"; then
    exit "$code"
  fi
done
