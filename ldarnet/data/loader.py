"""Batches for training and validation; the same global batches whatever the ranks, workers and restarts."""

import ctypes
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ldarnet.alphabet import NOT_SCORED
from ldarnet.data.masking import Masking
from ldarnet.data.reader import ShardSet
from ldarnet.data.segments import find_stretches
from ldarnet.data.windows import Places, Windows, window_name
from ldarnet.errors import TransientError, UserError

_LOOKED_UP_TOGETHER = 1024


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A window that could not be read: its name, such as ``chr1:4097-8192``, and why, with shard and block."""

    window: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Some windows for one rank.

    Attributes:
        input_ids: (b, L) int64, what the model sees.
        labels: (b, L) int64, the true base where it is scored, else -100.
        first_position: position of the first window in its stream.
        windows: rows that count; 0 for the filler row that a rank without windows gets in validation.
        quarantined: windows on damaged blocks: their rows are all N and nothing in them is scored.
        places: where the windows lie, in validation.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    first_position: int
    windows: int
    quarantined: tuple[Quarantined, ...] = ()
    places: Places | None = None

    @property
    def scored(self) -> torch.Tensor:
        """Scored bases of each row, (b,)."""
        return (self.labels != NOT_SCORED).sum(1)


class StepDataset(Dataset["list[Batch] | UserError"]):
    """The micro-batches of one rank by step.

    An error is an item like any other: raised in a worker it would come wrapped in that worker's traceback.
    """

    def __init__(
        self,
        windows: Windows,
        masking: Masking,
        *,
        micro_batch: int,
        accumulation: int,
        rank: int,
        world: int,
        last_step: int,
        start: int = 0,
    ) -> None:
        self._windows = windows
        self._masking = masking
        self._shape = (accumulation, world, micro_batch)
        self._rank = rank
        self._last_step = last_step
        self._start = start
        self._planned: tuple[int, Places] | None = None

    def __getitem__(self, index: int) -> list[Batch] | UserError:
        positions = self.positions(index)
        try:
            places = self._places(index)
            self._look_ahead(index)
            ids, damaged = self._windows.read(places)
        except UserError as error:
            return error
        inputs, labels = self._masking.apply(ids, self._windows.shards.fingerprint, positions.ravel())
        accumulation, _, size = self._shape
        batches = []
        for micro in range(accumulation):
            rows = range(micro * size, (micro + 1) * size)
            lost = tuple(
                Quarantined(
                    window_name(self._windows.shards, places.contig[row], places.start[row], self._windows.length),
                    damaged[row],
                )
                for row in rows
                if row in damaged
            )
            part = slice(rows.start, rows.stop)
            batches.append(
                Batch(
                    torch.from_numpy(inputs[part]), torch.from_numpy(labels[part]), int(positions[micro, 0]), size, lost
                )
            )
        return batches

    def positions(self, index: int) -> np.ndarray:
        """Positions of this rank's windows in a step: (accumulation, micro_batch) int64."""
        size = math.prod(self._shape)
        return (self._start + np.arange(index * size, (index + 1) * size)).reshape(self._shape)[:, self._rank]

    def _places(self, index: int) -> Places:
        """Where this rank's windows of a step lie; many steps are looked up together, which takes hardly longer."""
        size = self._shape[0] * self._shape[2]
        together = max(1, _LOOKED_UP_TOGETHER // size)
        number, place = divmod(index, together)
        if self._planned is None or self._planned[0] != number:
            steps = range(number * together, (number + 1) * together)
            positions = np.concatenate([self.positions(step).ravel() for step in steps])
            self._planned = number, self._windows.places(positions)
        return self._planned[1].rows(place * size, (place + 1) * size)

    def _look_ahead(self, index: int) -> None:
        """Let the remote blocks of this process's next step be fetched while it prepares the present one."""
        worker = get_worker_info()
        following = index + (worker.num_workers if worker else 1)
        if following < self._last_step:
            self._windows.prefetch(self._places(following))


def training_steps(
    windows: Windows,
    masking: Masking,
    *,
    micro_batch: int,
    accumulation: int,
    rank: int,
    world: int,
    first_step: int,
    last_step: int,
    workers: int = 0,
) -> Iterator[list[Batch]]:
    """The micro-batches of each optimiser step for one rank.

    Window ``i`` of micro-batch ``m`` of step ``s`` on rank ``r`` stands at position
    ``((s * accumulation + m) * world + r) * micro_batch + i``: all ranks together see the same windows in a micro-step
    as one rank with ``world * micro_batch`` windows.

    Args:
        windows: what to read.
        masking: how to corrupt it.
        micro_batch: windows in a forward pass of one rank.
        accumulation: micro-batches in a step.
        rank: this rank.
        world: number of ranks.
        first_step: where to begin; a resumed run begins where it stopped.
        last_step: the step not taken any more.
        workers: processes that prepare batches ahead; 0 prepares each when it is asked for. The batches are the same.

    Yields:
        One list of ``accumulation`` batches for each step.

    Raises:
        TransientError: a worker was killed, or a read failed that may succeed later.
        UserError: a shard cannot be read; it is missing, damaged or changed, and the set was not told to go on.
    """
    assert micro_batch >= 1 and accumulation >= 1 and 0 <= rank < world and 0 <= first_step <= last_step
    loader: DataLoader[list[Batch] | UserError] = DataLoader(
        StepDataset(
            windows,
            masking,
            micro_batch=micro_batch,
            accumulation=accumulation,
            rank=rank,
            world=world,
            last_step=last_step,
        ),
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        collate_fn=_as_it_is,
        # Without a generator of its own the loader would advance the global one.
        generator=torch.Generator(),
        # The kernel means the thread that forks them.
        worker_init_fn=partial(_die_with, os.getpid()) if _in_main_thread() else None,
    )
    steps = _started(loader)
    del loader
    try:
        while True:
            step = next(steps)
            if isinstance(step, UserError):
                raise step
            yield [_widened(batch) for batch in step]
    except StopIteration:
        return
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TransientError(
            f"a process that reads the shards ended: {error}; if it was killed for want of memory, set fewer "
            "data.workers; the same command goes on from the last checkpoint, if there is one"
        ) from None
    finally:
        # An error keeps this frame alive, and it shall not keep the workers alive.
        del steps


def _started(loader: DataLoader[list[Batch] | UserError]) -> Iterator[list[Batch] | UserError]:
    """Begin to iterate without torch's handler of a worker's death, which raises wherever the program happens to be.

    It is noticed all the same, within seconds of asking for the next batch, and told there.
    """
    if not _in_main_thread():
        return iter(loader)
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _die_with(parent: int, _: int) -> None:
    """Let the kernel kill this worker with its parent: it holds that one's connections and locks open."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, ctypes.c_ulong(signal.SIGKILL))
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


def _widened(batch: Batch) -> Batch:
    """With the integers that models take; between processes and until they are needed, a byte a base will do."""
    return replace(batch, input_ids=batch.input_ids.long(), labels=batch.labels.long())


def _as_it_is(step: list[Batch] | UserError) -> list[Batch] | UserError:
    return step


def validation_batches(
    shards: ShardSet,
    split: str,
    *,
    length: int,
    max_windows: int,
    batch: int,
    rank: int,
    world: int,
    masking: Masking,
    max_n_run: int = 100,
) -> Iterator[Batch]:
    """A fixed set of windows with fixed masks, dealt to the ranks batch by batch.

    The windows are spread evenly over the split, on the forward strand, and do not depend on the number of ranks. Every
    rank yields the same number of batches; the last may hold fewer windows, and a rank with none left yields one filler
    row in which nothing is scored.

    Args:
        shards: the bases.
        split: name of the split.
        length: bases in a window.
        max_windows: how many windows at most.
        batch: windows in a batch of one rank.
        rank: this rank.
        world: number of ranks.
        masking: how to corrupt them; its stream is independent of that of training.
        max_n_run: the longest run of N that a window may hold.

    Returns:
        The batches of this rank.

    Raises:
        UserError: no such split or no window fits in it, at once; a shard is missing, damaged or changed, when read.
    """
    assert max_windows >= 1 and batch >= 1 and 0 <= rank < world
    stretches = find_stretches(shards, split, length, max_n_run)
    count = min(max_windows, stretches.total)
    window = np.arange(count) * stretches.total // count

    def batches() -> Iterator[Batch]:
        for begin in range(0, count, world * batch):
            first = begin + rank * batch
            mine = window[first : first + batch]
            rows = mine if len(mine) else window[-1:]
            contig, start = stretches.place(rows, length)
            ids, damaged = shards.read_windows(contig, start, length)
            inputs, labels = masking.apply(ids, shards.fingerprint, rows, stream="validation")
            if not len(mine):
                labels[:] = NOT_SCORED
            lost = tuple(
                Quarantined(window_name(shards, contig[row], start[row], length), reason) for row, reason in damaged
            )
            places = Places(np.zeros(len(rows), dtype=np.int64), contig, start, np.zeros(len(rows), dtype=bool))
            yield _widened(Batch(torch.from_numpy(inputs), torch.from_numpy(labels), first, len(mine), lost, places))

    return batches()
