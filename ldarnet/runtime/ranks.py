"""Setup of every distributed program: process group, stop signals, rank log, watchdog."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldarnet.runtime import distributed
from ldarnet.runtime.distributed import World
from ldarnet.runtime.rank_log import rank_log
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
        yield timers, request
