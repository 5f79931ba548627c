"""Rank logs, such as `run.dir/logs/rank-00000.log`: environment, errors and stack traces of a rank, for all launches.

Only rank 0 prints to the console, and a hanging rank cannot raise an error, so each rank has its own log file.
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
from ldarnet.printable import printable_lines
from ldarnet.redaction import redact
from ldarnet.runtime.distributed import World
from ldarnet.runtime.ports import RANK_VARIABLES
from ldarnet.version import __version__

LOG = logging.getLogger("ldarnet.rank")
"""Logger that writes to the log file of this rank inside a `rank_log` block, and discards messages elsewhere."""
LOG.addHandler(logging.NullHandler())
LOG.setLevel(logging.INFO)
LOG.propagate = False

LOGGED_VARIABLES = (*RANK_VARIABLES, "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
LOGGED_PREFIXES = ("NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "TORCHELASTIC_", "SLURM_JOB_ID", "DS_")


@contextmanager
def rank_log(run_dir: Path, world: World) -> Iterator[TextIO]:
    """Open this rank's log file for the block: messages and any error raised in the block are written to it.

    If the file cannot be written, nothing is logged and training continues.

    Yields:
        The log file, for stack traces; `os.devnull` if the log file cannot be opened.
    """
    file = _open(run_dir / run_files.LOGS / run_files.RANK_LOG.format(rank=world.rank))
    handler = _QuietHandler(file)
    handler.setFormatter(RankFormatter("%(asctime)s  %(message)s"))
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
        LOG.exception("ended with an error")
        raise
    finally:
        LOG.removeHandler(handler)
        with suppress(OSError):
            file.close()


def environment(world: World) -> list[str]:
    """Describe host, versions, command line and relevant environment variables of this rank, one per line."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name in LOGGED_VARIABLES or name.startswith(LOGGED_PREFIXES)
    }
    return [
        f"rank {world.rank} of {world.size} on {socket.gethostname()}, pid {os.getpid()}, {world.device} "
        f"({world.device_name})",
        f"ldarnet {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command {' '.join(sys.argv)}",
        " ".join(f"{name}={variables[name]}" for name in sorted(variables)),
    ]


class RankFormatter(logging.Formatter):
    """Formatter that removes credentials from URLs, and escapes control characters, such as those in contig names."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        return printable_lines(redact(super().format(record)))


class _QuietHandler(logging.StreamHandler[TextIO]):
    """Logging handler that drops lines it cannot write."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Ignore a failed write."""


def _open(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8", buffering=1)
    except OSError:
        return open(os.devnull, "w", encoding="utf-8")
