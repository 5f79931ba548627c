#!/usr/bin/env bash
# Quickstart on the bundled genome: build shards, then pretrain on all GPUs or, without a GPU, on two CPU ranks.
#
#   launch/quickstart.sh [section.key=value ...]      (called by `make quickstart`; overrides go to `ldarnet pretrain`)
#
# Safe to run again: finished sharding is kept, and training resumes or reports the finished run.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

shards=runs/quickstart-shards # must equal data.shards in the configuration

echo "1/2  Building shards of the bundled genome in $shards"
python -m ldarnet shard --out "$shards"

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -gt 0 ]; then
    ranks=$gpus
    echo "2/2  Pretraining on $ranks GPUs"
    # A global batch of 8 windows, or the next multiple of the number of GPUs.
    if [ $((8 % ranks)) -ne 0 ]; then set -- "training.batch=$(((8 / ranks + 1) * ranks))" "$@"; fi
else
    ranks=2
    echo "2/2  Pretraining on $ranks CPU ranks"
    if nvidia-smi >/dev/null 2>&1; then
        echo "     warning: torch cannot use the GPU of this machine; run \`make doctor\`" >&2
    fi
fi
exec python -m ldarnet pretrain --ranks "$ranks" --config quickstart "$@"
