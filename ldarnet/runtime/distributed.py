"""Process group, collectives on small host data, and errors that are raised on all ranks."""

import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from ldarnet.errors import TransientError, UserError
from ldarnet.io.files import is_transient
from ldarnet.runtime.deepspeed_internals import load_deepspeed
from ldarnet.runtime.ports import free_port

T = TypeVar("T")

WAITING_SECONDS = 5.0
"""Seconds until the first report of missing ranks; each further interval is twice as long."""
ALONE = "to run a single rank, unset RANK, LOCAL_RANK and WORLD_SIZE"


@dataclass(frozen=True)
class World:
    """Rank of this process, number of ranks, device, and process group for host data.

    Collectives on small host data (numbers of targets, stop signals, errors) use `host_group`, a gloo group, and
    therefore never wait for the accelerator.
    """

    rank: int
    size: int
    device: torch.device
    host_group: dist.ProcessGroup

    @classmethod
    def alone(cls, device: torch.device) -> "World":
        """World of a single process without a process group; `sum_array` is the only collective that works."""
        return cls(0, 1, device, dist.group.WORLD)  # type: ignore[arg-type]

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints, tracks metrics and writes checkpoints."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """Name of the GPU, or the machine architecture if there is no GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine()

    @property
    def device_label(self) -> str:
        """Name of the GPU, or "CPU" with the number of threads, for the description of a run."""
        if self.device.type == "cuda":
            return self.device_name
        threads = torch.get_num_threads()
        return f"CPU ({threads} thread{'s' * (threads != 1)} each)"

    def sum_on_host(self, *numbers: int) -> list[int]:
        """All-reduce (sum) a few integers on the host; every rank must call this method."""
        totals = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(totals, group=self.host_group)
        return totals.tolist()

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """All-reduce (sum) a tensor on the device, in place; every rank must call this method."""
        dist.all_reduce(values)
        return values

    def sum_array(self, values: np.ndarray) -> np.ndarray:
        """All-reduce (sum) an array on the host, in place; every rank must call this method."""
        if self.size > 1:
            dist.all_reduce(torch.from_numpy(values), group=self.host_group)
        return values

    def gather_numbers(self, numbers: list[float]) -> torch.Tensor:
        """Gather a list from every rank into a tensor; every rank must call this method with a list of the same length.

        Returns:
            Tensor of shape (ranks, len(numbers)), float64 on the host.
        """
        rows = torch.zeros(self.size, len(numbers), dtype=torch.float64)
        rows[self.rank] = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(rows, group=self.host_group)
        return rows

    @contextmanager
    def together(self) -> Iterator[None]:
        """If any rank raises UserError or OSError in the block, raise it on all ranks; all ranks must enter the block.

        Without this, the ranks that have no error would hang in their next collective. An OSError is converted to a
        UserError. If several ranks fail, all ranks raise the error of the lowest failing rank.
        """
        error: UserError | None = None
        try:
            yield
        except (UserError, OSError) as caught:
            error = user_error(caught)
        self.raise_together(error)

    def raise_together(self, error: UserError | None) -> None:
        """If any rank passes an error, raise it on all ranks; every rank must call this method.

        If several ranks pass an error, all ranks raise the error of the lowest of these ranks.
        """
        if not self.sum_on_host(error is not None)[0]:
            return
        raise self.gather([] if error is None else [error])[0]

    def gather(self, items: list[T]) -> list[T]:
        """Concatenate the lists of all ranks, in rank order; every rank must call this method."""
        lists: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(lists, items, group=self.host_group)
        return [item for rank_items in lists for item in rank_items]

    def on_main(self, produce: Callable[[], T]) -> T | None:
        """Call `produce` on rank 0 and return its result; other ranks get None. Errors are raised on all ranks."""
        with self.together():
            return produce() if self.is_main else None

    def from_main(self, produce: Callable[[], T]) -> T:
        """Call `produce` on rank 0 and return its result on all ranks. Errors are raised on all ranks."""
        box = [self.on_main(produce)]
        dist.broadcast_object_list(box, src=0, group=self.host_group)
        return box[0]  # type: ignore[return-value]


def user_error(error: UserError | OSError) -> UserError:
    """Convert an OSError to a one-line UserError that includes the file name; return a UserError unchanged."""
    if isinstance(error, UserError):
        return error
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    kind = TransientError if is_transient(error) else UserError
    return kind(f"{error.filename}: {reason}" if error.filename else reason)


def start(timeout_minutes: float) -> World:
    """Join the process group defined by the launcher's environment variables; without a launcher, run a single rank.

    Args:
        timeout_minutes: `training.timeout_minutes`; collectives time out after 1.25 times this value plus 30 seconds.

    Raises:
        UserError: there are more ranks than GPUs, the launcher's variables are incomplete, the port is in use, or
            torchrun is configured to restart ranks in a way that would hang.
        TransientError: the other ranks cannot be reached.
    """
    _default_environment()
    _check_restarts()
    deepspeed = load_deepspeed()
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise _local_error(
                f"rank {os.environ['RANK']} has no GPU: the number of GPUs visible on this machine is "
                f"{torch.cuda.device_count()}; start fewer ranks (--num_gpus)"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    # Longer than the watchdog's timeout: the watchdog's error is more informative than the timeout of a collective.
    timeout = timedelta(minutes=1.25 * timeout_minutes, seconds=30)
    backend = "nccl" if device.type == "cuda" else "gloo"
    with _report_waiting(), _connection_errors():
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=timeout)
        host_group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(host_group, dist.ProcessGroup)
    return World(dist.get_rank(), dist.get_world_size(), device, host_group)


def stop() -> None:
    """Destroy the process group, if it exists."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _default_environment() -> None:
    """Set the environment variables of a single-rank job, unless a launcher has set them."""
    if "RANK" in os.environ:
        os.environ.setdefault("LOCAL_RANK", "0")
        _check_environment()
        return
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(free_port()))


def _check_environment() -> None:
    numbers = {}
    for name, minimum in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("MASTER_PORT", 1)):
        text = os.environ.get(name, "")
        if not (text.isascii() and text.isdecimal() and minimum <= int(text) < 2**31):
            raise _local_error(
                f"RANK={os.environ['RANK']} is set, but {name}={text or '(unset)'} is not a number from {minimum} up; "
                f"{ALONE}"
            )
        numbers[name] = int(text)
    if numbers["RANK"] >= numbers["WORLD_SIZE"]:
        raise _local_error(f"RANK={numbers['RANK']} is not less than WORLD_SIZE={numbers['WORLD_SIZE']}; {ALONE}")
    if not os.environ.get("MASTER_ADDR"):
        raise _local_error(f"RANK={numbers['RANK']} is set, but MASTER_ADDR is not; {ALONE}")


def _local_error(message: str) -> UserError:
    """Create an error that this rank prints even if it is not rank 0, because rank 0 may not be running."""
    error = UserError(message)
    error.local = True
    return error


@contextmanager
def _report_waiting() -> Iterator[None]:
    """Report on stderr, at growing intervals, that the block is waiting for other ranks."""
    size, done = int(os.environ["WORLD_SIZE"]), threading.Event()
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"

    def report() -> None:
        seconds = WAITING_SECONDS
        while not done.wait(seconds):
            print(
                f"rank {os.environ['RANK']}: waiting for {size - 1} more rank{'s' * (size > 2)} at {address}, because "
                f"WORLD_SIZE={size} is set in the environment; {ALONE}",
                file=sys.stderr,
                flush=True,
            )
            seconds *= 2

    if size > 1:
        threading.Thread(target=report, name="waiting", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Convert errors of the connection between ranks to one-line errors.

    Raises:
        UserError: the port is in use.
        TransientError: the other ranks cannot be reached.
    """
    try:
        yield
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        port, reason = os.environ["MASTER_PORT"], " ".join(str(error).split())[:300]
        if "EADDRINUSE" in reason or "already in use" in reason:
            raise _local_error(
                f"MASTER_PORT={port}: another program uses this port; choose another one (--master_port of the "
                "launcher, or MASTER_PORT)"
            ) from None
        failure = TransientError(
            f"cannot connect the ranks at {os.environ['MASTER_ADDR']}:{port}: {reason}; check that all "
            f"{os.environ['WORLD_SIZE']} ranks are launched and can reach this address"
        )
        failure.local = True
        raise failure from None


def _check_restarts() -> None:
    """Reject torchrun restarts that reuse the TCP store of the previous attempt: stale keys would make ranks hang."""
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if shared and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UserError(
            "torchrun --max-restarts: a restarted job would hang; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 on all nodes"
        )
