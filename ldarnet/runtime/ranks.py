"""Setup of every distributed program: process group, stop signals, rank log, watchdog, CPU threads."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from pydantic import BaseModel, PositiveInt

from ldarnet import threads
from ldarnet.console import make_console
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.io.records import read_record
from ldarnet.runtime import distributed
from ldarnet.runtime.distributed import World
from ldarnet.runtime.rank_log import LOG, rank_log
from ldarnet.runtime.signals import StopRequest, stop_requests
from ldarnet.runtime.timers import StepTimers
from ldarnet.runtime.watchdog import Watchdog


@contextmanager
def process_group(timeout_minutes: float) -> Iterator[World]:
    """Join the process group defined by the launcher's environment variables; destroy it at the end of the block.

    Raises:
        UserError: there are more ranks than GPUs, or torchrun is configured to restart ranks in a way that would hang.
    """
    world = distributed.start(timeout_minutes)
    try:
        yield world
    finally:
        distributed.stop()


@contextmanager
def supervised(world: World, run_dir: Path, timeout_minutes: float) -> Iterator[tuple[StepTimers, StopRequest]]:
    """Catch stop signals, log to the rank log of `run_dir`, and end the job if a rank dies, fails or hangs.

    On a CPU, also set the number of threads.

    Args:
        world: the process group; every rank must enter and leave the block.
        run_dir: run folder; the logs are in its `logs` subfolder.
        timeout_minutes: minutes without progress after which a rank is considered hung.

    Yields:
        The timers of this rank, which show its progress to the watchdog, and the stop request, which records stop
        signals.
    """
    timers = StepTimers()
    with (
        stop_requests() as request,
        rank_log(run_dir, world) as log,
        Watchdog(world, timers, log, 60 * timeout_minutes),
    ):
        if world.device.type == "cpu":
            set_threads(world, run_dir)
        yield timers, request


class _Launch(BaseModel):
    """Contents of threads.json."""

    ranks: PositiveInt
    threads: PositiveInt


def set_threads(world: World, run_dir: Path) -> None:
    """Set the number of CPU threads, the same on all ranks; every rank must call this function.

    A run that is resumed with the same number of ranks uses the same number of threads again (`threads.json`), because
    it would not be bit-identical otherwise.
    """
    file = run_dir / run_files.THREADS
    hint = "delete it; the number of threads is then chosen again"
    saved = world.from_main(lambda: read_record(file, _Launch, hint=hint) if file.is_file() else None)
    place = (socket.gethostname(), threads.affinity())
    earlier = saved.threads if saved is not None and saved.ranks == world.size else None
    chosen = threads.set_threads(world.gather([place]).count(place), earlier)
    count = min(world.gather([chosen.count]))
    if threads.user_setting() is None:
        torch.set_num_threads(count)
    LOG.info("rank uses %s; fewest of all ranks: %d", chosen, count)
    if chosen.busy:
        make_console(quiet=not world.is_main).print(f"using {chosen}")
    launch = _Launch(ranks=world.size, threads=count)
    if launch != saved:
        with suppress(OSError):  # a full disk is reported elsewhere
            world.is_main and write_json_atomic(file, launch.model_dump())
