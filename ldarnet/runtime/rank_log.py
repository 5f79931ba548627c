"""`run.dir/logs/rank-00000.log`: what every rank did and suffered, over all starts, for people.

Rank 0 prints; the others are silent, and a rank that hangs cannot even raise. What each of them has to say stands here.
"""

import logging
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import torch

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.runtime.distributed import World
from ldarnet.version import __version__

LOG = logging.getLogger("ldarnet.rank")
"""Writes to this rank's file while there is one, else nowhere."""
LOG.addHandler(logging.NullHandler())
LOG.setLevel(logging.INFO)
LOG.propagate = False

TOLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
TOLD_PREFIXES = ("NCCL_", "GLOO_", "TORCH_", "TORCHELASTIC_", "SLURM_JOB_ID", "DS_")


@contextmanager
def rank_log(run_dir: Path, world: World) -> Iterator[TextIO]:
    """Log to this rank's file inside the block, an error that leaves it included; gives the file, for stack dumps.

    A folder that cannot be written makes training no worse: the lines are lost.
    """
    file = _open(run_dir / run_files.LOGS / run_files.RANK_LOG.format(rank=world.rank))
    handler = _Silent(file)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    LOG.addHandler(handler)
    try:
        for text in environment(world):
            LOG.info(text)
        yield file
        LOG.info("ended")
    except UserError as error:
        LOG.error("error: %s", error)
        raise
    except BaseException:
        LOG.exception("ended by an error")
        raise
    finally:
        LOG.removeHandler(handler)
        with suppress(OSError):
            file.close()


def environment(world: World) -> list[str]:
    """What a start of a rank runs on."""
    told = {name: value for name, value in os.environ.items() if name in TOLD or name.startswith(TOLD_PREFIXES)}
    return [
        f"rank {world.rank} of {world.size} starts on {socket.gethostname()}, process {os.getpid()}, {world.device} "
        f"({world.device_name})",
        f"ldarnet {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command {' '.join(sys.argv)}",
        " ".join(f"{name}={told[name]}" for name in sorted(told)),
    ]


class _Silent(logging.StreamHandler[TextIO]):
    """Loses a line that cannot be written, without a word."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Do nothing."""


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8", buffering=1)
    except OSError:
        return open(os.devnull, "w", encoding="utf-8")
