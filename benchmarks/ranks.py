"""Ranks of one job on the CPU of this machine, one thread each."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ldarnet.runtime.distributed import free_port

ROOT = Path(__file__).resolve().parents[1]


def start_ranks(
    command: Sequence[str], ranks: int, output: int | IO[str], errors: int | IO[str]
) -> list[subprocess.Popen[str]]:
    """Start Python with the arguments `command` on every rank; `output` and `errors` are as of `subprocess.Popen`."""
    common = os.environ | {
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=output,
            stderr=errors,
            text=True,
        )
        for rank in range(ranks)
    ]
