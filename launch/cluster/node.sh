#!/usr/bin/env bash
# Run the ranks of one node of a multi-node run; called on each node by Slurm, Kubernetes or Ray:
#
#   launch/cluster/node.sh NODES NODE_RANK MASTER_ADDR SLOTS --config FILE [section.key=value ...]
#
# NODES nodes with SLOTS ranks each; NODE_RANK counts from 0; MASTER_ADDR is the address of node 0 (port: MASTER_PORT,
# default 29500). On SIGTERM, SIGINT or SIGUSR1, all ranks save and exit with status 75; run it again to resume.
set -euo pipefail

# Ranks ignore SIGUSR1 until they can save, so send it repeatedly until they have exited.
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

# Use a separate process group, in which launchers ignore SIGUSR1, while ranks catch it, save and exit.
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
    kill -0 "$group" 2>/dev/null || break # if it is still running, a signal interrupted `wait`
done
exit "$status"
