#!/usr/bin/env bash
# Trains on a Cloud TPU slice of several hosts (v2 to v6e; newer ones need GKE, see jobset.yaml).
#
# Edit the settings below. The checkout, with this file edited, the data and the workdir are in $shared, storage that
# each host mounts with $mount. Run it on any machine with gcloud:
#
#   bash scripts/launch/tpu_pod.sh          # requests the slice if there is none, waits, starts training on all hosts
#   bash scripts/launch/tpu_pod.sh watch    # does the same every five minutes until training is over, and requests a
#                                           # preempted slice again
#   bash scripts/launch/tpu_pod.sh stop     # all hosts save their state and stop; the slice remains and is billed
#
# Each command can be repeated at any time; it does not affect a host that is already training. On each host, a loop
# starts training again by the rule in again.sh (log: ~/mrcnn_jax.log). It continues from the newest checkpoint, also on
# a slice of another size.
set -euo pipefail

name=${TPU_NAME:-mrcnn}
zone=europe-west4-b
accelerator=v5litepod-32
runtime=v2-alpha-tpuv5-lite
tier=--spot # empty for on-demand
shared=${SHARED:-/mnt/shared}
mount=${MOUNT:-"mountpoint -q $shared || { sudo apt-get install -qq nfs-common && sudo mkdir -p $shared &&
  sudo mount -t nfs FILESTORE:/share $shared; }"}
checkout=$shared/mrcnn_jax
workdir=$shared/runs/r50_batch256
arguments=(configs/mask_rcnn_r50_fpn_batch256.py --workdir "$workdir" --data.train "$shared/data/coco:train"
  --data.val "$shared/data/coco:val" --train.init-from "$shared/resnet50-0676ba61.pth")

tpu() { gcloud compute tpus "$@" --zone="$zone" --quiet; }
on_host() { tpu tpu-vm ssh "$name" --worker="$1" --command="$2"; }
state() { tpu queued-resources describe "$name" --format='value(state.state)' 2>/dev/null || echo NONE; }

# Requests the slice if necessary, since a preempted one does not come back by itself.
have_slice() {
  case $(state) in
    ACTIVE) return ;;
    SUSPENDED | FAILED) tpu queued-resources delete "$name" ;;&
    SUSPENDED | FAILED | NONE)
      # shellcheck disable=SC2086 # nothing, if $tier is empty
      tpu queued-resources create "$name" --node-id="$name" --accelerator-type="$accelerator" \
        --runtime-version="$runtime" $tier
      ;;
  esac
  until [ "$(state)" = ACTIVE ]; do
    echo "$(date +%T) $name is $(state)"
    case $(state) in FAILED | SUSPENDED) return 1 ;; esac
    sleep "${POLL_SECONDS:-60}"
  done
}

up() {
  have_slice
  on_host all "{ $mount; } && cd $checkout && { setsid nohup bash scripts/launch/tpu_pod.sh worker </dev/null \
    >>~/mrcnn_jax.log 2>&1 & sleep 1; }"
}

watch() {
  local line
  while :; do
    up || echo "$(date +%T) not up: trying again"
    sleep "${POLL_SECONDS:-300}"
    line=$(on_host 0 'tail -n 1 ~/mrcnn_jax.log') || line="no answer from host 0"
    echo "$(date +%T) $line"
    [[ $line != "launch: over"* ]] || return 0
  done
}

# Runs on a host: installs what is missing and trains until training is done or another start would not help.
worker() {
  local codes=$workdir/exit_codes code=75
  exec 9>~/mrcnn_jax.lock
  flock -n 9 || exit 0 # already training
  echo $$ >~/mrcnn_jax.pid
  cd "$checkout"
  if [ ! -e ~/venv/installed ]; then
    pip install --quiet --user uv
    ~/.local/bin/uv venv --quiet --clear --python 3.12 ~/venv
    ~/.local/bin/uv pip install --quiet --python ~/venv/bin/python -r requirements.txt -U "jax[tpu]>=0.10.2,<0.13"
    touch ~/venv/installed
  fi
  TRAIN=${TRAIN:-$HOME/venv/bin/python scripts/train.py}
  source scripts/launch/again.sh
  mkdir -p "$codes"
  rm -f ~/mrcnn_jax.restarts "$codes"/*
  while [ "$code" = 75 ]; do
    code=0
    run_process "$codes/$HOSTNAME" "${train[@]}" "${arguments[@]}" || code=$?
    [ "$code" != 0 ] || break
    # The others end within the heartbeat and 10 seconds. After that, all hosts see the same codes, and no old process
    # is left.
    sleep "${PAUSE_SECONDS:-45}" || true
    code=$(outcome "$codes" 1)
    if [ -n "$stopping" ] || { [ "$code" = 75 ] && ! may_run_again "$workdir" ~/mrcnn_jax.restarts; }; then break; fi
  done
  echo "launch: over, with $code"
}

case ${1:-up} in
  up) up ;;
  watch) watch ;;
  stop) on_host all "kill -TERM -- -\$(cat ~/mrcnn_jax.pid)" ;;
  worker) worker ;;
  *)
    echo "usage: bash scripts/launch/tpu_pod.sh [up|watch|stop]" >&2
    exit 2
    ;;
esac
