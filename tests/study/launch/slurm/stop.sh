#!/usr/bin/env bash
# Stops what start.sh FOLDER has started, with all jobs.
set -u
. "$1/environment"
scancel --user="$(id -un)" --full --signal=KILL 2>/dev/null
for name in slurmd slurmctld munge/pid; do
  file="$1/$name"
  [ "$name" = munge/pid ] || file="$1/$name.pid"
  [ -s "$file" ] && kill "$(cat "$file")" 2>/dev/null
done
for _ in $(seq 60); do
  running=no
  for file in "$1"/slurmd.pid "$1"/slurmctld.pid "$1"/munge/pid; do
    [ -s "$file" ] && kill -0 "$(cat "$file")" 2>/dev/null && running=yes
  done
  [ "$running" = no ] && exit 0
  sleep 0.5
done
echo "Slurm did not stop." >&2
exit 1
