"""The ranks of a run: starting them, agreeing on numbers, and turning one rank's error into everyone's."""

import functools
import logging
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import TypeVar

import torch
import torch.distributed as dist

from ldarnet.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all ranks, and the device it computes on.

    Small decisions (counts of masked bases, stop signals, errors) go through `host_group`, which lives on the CPU, so
    that agreeing on them never waits for the accelerator.
    """

    rank: int
    size: int
    device: torch.device
    host_group: dist.ProcessGroup

    @property
    def is_main(self) -> bool:
        """Whether this rank prints, tracks and writes."""
        return self.rank == 0

    def sum_on_host(self, *numbers: int) -> list[int]:
        """The sums over ranks of a few integers; every rank must call it."""
        totals = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(totals, group=self.host_group)
        return totals.tolist()

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of a tensor on the device, in place; every rank must call it."""
        dist.all_reduce(values)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block on every rank; if it raises UserError or OSError on any, all ranks raise the first one's.

        Without it a rank that fails alone leaves the others waiting in their next collective.
        """
        error: UserError | None = None
        try:
            yield
        except (UserError, OSError) as caught:
            error = user_error(caught)
        self.raise_together(error)

    def raise_together(self, error: UserError | None) -> None:
        """Raise on all ranks if any of them passes an error; every rank must call it."""
        if not self.sum_on_host(error is not None)[0]:
            return
        messages = self.gather([] if error is None else [str(error)])
        raise UserError(messages[0])

    def gather(self, items: list[T]) -> list[T]:
        """The items of all ranks in their order; every rank must call it."""
        lists: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(lists, items, group=self.host_group)
        return [item for of_rank in lists for item in of_rank]

    def on_main(self, produce: Callable[[], T]) -> T | None:
        """What `produce` returns on rank 0, None on the others; its error is raised on all of them."""
        with self.together():
            return produce() if self.is_main else None

    def from_main(self, produce: Callable[[], T]) -> T:
        """What `produce` returns on rank 0, given to all ranks; its error is raised on all of them."""
        box = [self.on_main(produce)]
        dist.broadcast_object_list(box, src=0, group=self.host_group)
        return box[0]  # type: ignore[return-value]


def user_error(error: UserError | OSError) -> UserError:
    """The error in one line for the user, with the file that the operating system complains about."""
    if isinstance(error, UserError):
        return error
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{error.filename}: {reason}" if error.filename else reason)


def start(timeout_minutes: float) -> World:
    """Join the process group that the launcher's environment describes; alone when there is none."""
    _default_environment()
    deepspeed = load_deepspeed()
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"rank {os.environ['RANK']} has no GPU of its own: {torch.cuda.device_count()} are visible on this "
                "machine; start fewer ranks (--num_gpus)"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    timeout = timedelta(minutes=timeout_minutes)
    backend = "nccl" if device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
    host_group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(host_group, dist.ProcessGroup)
    return World(dist.get_rank(), dist.get_world_size(), device, host_group)


def stop() -> None:
    """Leave the process group; the last thing a rank does."""
    if dist.is_initialized():
        dist.destroy_process_group()


@functools.cache
def load_deepspeed() -> ModuleType:
    """Import DeepSpeed, quietly and without what training never uses.

    Its autotuner imports MLflow (seconds per rank), and on CPU it compiles a shared-memory operation that only
    inference calls (a minute, and a compiler).
    """
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*(reduce_scatter|all_gather)_.*deprecated.*")
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
    finally:
        if hidden:
            del sys.modules["mlflow"]
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    return deepspeed


def _default_environment() -> None:
    """Make a plain `python` process a world of one; launchers set all five variables themselves."""
    if "RANK" in os.environ:
        os.environ.setdefault("LOCAL_RANK", "0")
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))


def free_port() -> int:
    """A TCP port that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
