#!/usr/bin/env bash
# One node's part of a run on several, started by whatever starts programs on nodes (Slurm, Kubernetes, Ray):
#
#   launch/cluster/node.sh NODES NODE_RANK MASTER_ADDR SLOTS --config FILE [section.key=value ...]
#
# NODES nodes with SLOTS ranks each; this is number NODE_RANK from 0, and node 0 has the address MASTER_ADDR (port
# MASTER_PORT, by default 29500). TERM, INT and USR1 let all ranks save and end; the status is then 75: run it again.
set -euo pipefail

# Until they can save, ranks ignore USR1, so it is sent to them until they have ended.
group='' stopping=''
stop() {
    stopping=yes
    [ -z "$group" ] || while kill -USR1 -- "-$group" 2>/dev/null; do sleep 2; done &
}
trap stop TERM INT USR1

cd "$(dirname "$0")/../.."
[ $# -ge 5 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 1; }
nodes=$1 node_rank=$2 master=$3 slots=$4
shift 4
[ ! -d .venv ] || export PATH="$PWD/.venv/bin:$PATH"

hostfile=$(mktemp)
trap 'rm -f "$hostfile"' EXIT
for ((node = 0; node < nodes; node++)); do echo "node$node slots=$slots"; done >"$hostfile"

# In a process group of its own, in which launchers ignore USR1, while ranks catch it, save and end.
set -m
(
    trap '' TERM INT USR1
    exec deepspeed --hostfile "$hostfile" --no_ssh --node_rank "$node_rank" \
        --master_addr "$master" --master_port "${MASTER_PORT:-29500}" launch/pretrain.py "$@"
) &
group=$!
[ -z "$stopping" ] || stop
while :; do
    status=0
    wait "$group" || status=$?
    kill -0 "$group" 2>/dev/null || break # otherwise a signal has ended the waiting
done
exit "$status"
