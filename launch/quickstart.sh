#!/usr/bin/env bash
# The main job on the bundled genome: shards, then pretraining on every local GPU or, without one, on two CPU ranks.
#
#   launch/quickstart.sh [section.key=value ...]      (`make quickstart` calls it; overrides go to the training program)
#
# Run again, the sharding says that it is done, and the training continues its run or says what it found.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

config=configs/pretrain/quickstart.yaml
shards=runs/quickstart-shards # as $config says

echo "1/2  Sharding the bundled genome into $shards"
python -m sharding.build --out "$shards"

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -gt 0 ]; then
    ranks=$gpus
    echo "2/2  Pretraining on $ranks GPUs"
    # The configuration's 8 windows a step, or the next number that the GPUs can share evenly.
    if [ $((8 % ranks)) -ne 0 ]; then set -- "training.batch=$(((8 / ranks + 1) * ranks))" "$@"; fi
else
    ranks=2
    cores=$(getconf _NPROCESSORS_ONLN)
    export DS_ACCELERATOR=cpu
    # Half of the cores for each rank; a model this small gains nothing from more than eight.
    threads=$((cores / ranks))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads < 1 ? 1 : threads > 8 ? 8 : threads))}
    # Both ranks are here: talk over the loopback interface, whatever the machine's network is like.
    if [ "$(uname -s)" = Linux ]; then export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}; fi
    echo "2/2  Pretraining on $ranks CPU ranks with $OMP_NUM_THREADS thread(s) each"
    if nvidia-smi >/dev/null 2>&1; then
        echo "     There is a GPU here that torch cannot use; \`make doctor\` says why." >&2
    fi
fi

# A free port, so that two jobs on one machine do not meet.
port=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
deepspeed --quiet --num_accelerators "$ranks" --master_port "$port" launch/pretrain.py --config "$config" "$@"
