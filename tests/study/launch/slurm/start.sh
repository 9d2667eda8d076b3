#!/usr/bin/env bash
# Starts a Slurm of one node on this machine in FOLDER, with nothing outside it: start.sh FOLDER. As root.
# Afterwards `. FOLDER/environment` makes sbatch, squeue and the others talk to it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"/{munge,state,spool,log}
folder=$(cd "$1" && pwd)
chmod 700 "$folder/munge"

dd if=/dev/urandom of="$folder/munge/key" bs=128 count=1 status=none
chmod 400 "$folder/munge/key"
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"

# Two ports that are free now.
read -r controller_port node_port < <(python3 - <<'PYTHON'
import socket
sockets = [socket.socket() for _ in range(2)]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PYTHON
)
sed -e "s|@FOLDER@|$folder|g" -e "s|@HOST@|$(hostname -s)|g" -e "s|@CPUS@|$(nproc)|g" \
  -e "s|@MEMORY@|$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)|g" \
  -e "s|@CONTROLLER_PORT@|$controller_port|g" -e "s|@NODE_PORT@|$node_port|g" \
  "$here/slurm.conf.in" > "$folder/slurm.conf"
# This version sets up its cgroup plugin even where nothing uses it, and this one asks least of the machine.
echo "CgroupPlugin=cgroup/v1" > "$folder/cgroup.conf"

echo "export SLURM_CONF=$folder/slurm.conf" > "$folder/environment"
. "$folder/environment"
slurmctld -i -L "$folder/log/slurmctld.log"
slurmd -L "$folder/log/slurmd.log" -f "$folder/slurm.conf"

for _ in $(seq 120); do
  if [ "$(sinfo --noheader --format=%t 2>/dev/null | head -1)" = idle ]; then
    exit 0
  fi
  sleep 0.5
done
echo "Slurm did not become idle:" >&2
sinfo >&2 || true
tail -n 20 "$folder"/log/*.log >&2
exit 1
