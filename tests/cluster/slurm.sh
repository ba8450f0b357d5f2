#!/usr/bin/env bash
# `wsikit run --cluster slurm` through a real SLURM of one node on loopback. Optional: it needs root on Debian or Ubuntu,
# where it installs slurm-wlm and munge if they are not there. Everything else lies in a folder that is removed at the end.
#
#     tests/cluster/slurm.sh [COMMAND...]       the wsikit to run; .venv/bin/wsikit if not given
#
# A slide is run on this machine, then by two jobs of SLURM of which one is cancelled in mid-run: both must give the same
# bytes, and no job may be left. Ends with 0 and "the same bytes" when that holds.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
wsikit=("${@:-$root/.venv/bin/wsikit}")
folder=$(mktemp -d /tmp/wsikit-slurm-XXXXXX)
export SLURM_CONF=$folder/slurm.conf
started=()

finish() {
    status=$?
    set +e
    # the last started ends first
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do kill "$(cat "${started[i]}" 2>/dev/null)" 2>/dev/null; done
    sleep 1
    if [ "$status" = 0 ]; then rm -rf "$folder"; else echo "what was left is in $folder" >&2; fi
}
trap finish EXIT

if ! command -v slurmctld slurmd munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends slurm-wlm munge >/dev/null
fi

if ! munge -n >/dev/null 2>&1; then
    install -d -o munge -g munge /run/munge
    runuser -u munge -- munged
    started+=(/run/munge/munged.pid)
fi

mkdir -p "$folder"/{state,spool,jobs}
cat >"$SLURM_CONF" <<EOF
ClusterName=wsikit
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
slurmctld
started+=("$folder/slurmctld.pid")
slurmd -N localhost
started+=("$folder/slurmd.pid")
for _ in $(seq 30); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break
    sleep 1
done
sinfo --version
sinfo

cat >"$folder/options.yaml" <<EOF
jobs: 2
cores: 1
memory: 3GB
walltime: "00:30:00"
job_extra_directives: ["--requeue"]
local_directory: $folder/jobs
log_directory: $folder/jobs
EOF

"${wsikit[@]}" samples -o "$folder/samples" --pyramid 3072
slide=$folder/samples/pyramid-3072.svs
"${wsikit[@]}" run -i "$slide" -o "$folder/here" --cluster threads -n 1
"${wsikit[@]}" run -i "$slide" -o "$folder/out" --cluster slurm --cluster-options "$folder/options.yaml" --supertile 512 &
running=$!
until compgen -G "$folder/out/*/.spool/*/o*" >/dev/null; do
    kill -0 "$running"
    sleep 0.1
done
squeue
job=$(squeue -h -t RUNNING -o %i | head -n 1)
echo "cancelling job $job in mid-run"
scancel "$job"
wait "$running"

grep -h "Starting Worker plugin wsikit" "$folder"/jobs/*.err
for _ in $(seq 20); do
    [ -z "$(squeue -h)" ] && break
    sleep 1
done
[ -z "$(squeue -h)" ] || { squeue && echo "jobs are left" >&2 && exit 1; }
for name in objects.geojson.gz masks.ome.zarr; do
    diff -r "$folder/here/pyramid-3072/$name" "$folder/out/pyramid-3072/$name"
done
echo "the same bytes"
