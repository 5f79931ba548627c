"""Batches for training and validation. Global batches do not depend on the number of ranks, workers or restarts."""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.data.masking import MaskedWindows, Masking
from ldarnet.data.next_base import NextBase
from ldarnet.data.reader import ShardSet
from ldarnet.data.segments import find_segments
from ldarnet.data.windows import Locations, Windows, window_name
from ldarnet.errors import TransientError, UserError
from ldarnet.io.process import exit_with_parent, worker_errors

BoundarySource = Callable[[np.ndarray, Locations], np.ndarray]
"""Finds the chunk boundaries of masked windows, (b, L) uint8, at these locations: (b, L) bool, True where chunks begin.
"""
_LOOKUP_WINDOWS = 1024  # minimum windows located per call, which takes hardly longer than locating one window


@dataclass(frozen=True, slots=True)
class QuarantinedWindow:
    """A window that was not read because a block is missing or damaged.

    Attributes:
        window: coordinates, such as ``chr1:4097-8192`` (1-based, inclusive).
        reason: error message with shard and block.
    """

    window: str
    reason: str


@dataclass(frozen=True, slots=True)
class TokenTargets:
    """Targets of a batch of tokens, in bases.

    Attributes:
        bases: (b,) int64, number of bases of the target tokens of each row.
        length: bases in a window.
    """

    bases: np.ndarray
    length: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch of one rank.

    Attributes:
        input_ids: (b, L) uint8, the input windows; models require int64, see `ldarnet.ops.to_device`. With a
            tokenizer, (b, T) int32 for the T tokens of the longest window, padded with [PAD].
        labels: (b, L) int8, the true base at target positions, -100 elsewhere; losses require int64. With a tokenizer,
            (b, T) int32, the true token at targets. For next-base prediction, the target of a position is the next one.
        first_position: stream position of the first window; in validation, its index among the validation windows.
        windows: number of windows; 0 in the filler batch of a rank that has no windows in the last validation batch.
        quarantined: windows on damaged or missing blocks; their rows are all N and have no targets.
        locations: in validation, the locations of the windows; in training, None.
        token_targets: with a tokenizer, the targets in bases.
        boundaries: (b, L) bool, True where chunks begin; None without a source of boundaries.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    first_position: int
    windows: int
    quarantined: tuple[QuarantinedWindow, ...] = ()
    locations: Locations | None = None
    token_targets: TokenTargets | None = None
    boundaries: torch.Tensor | None = None

    @property
    def target_counts(self) -> torch.Tensor:
        """Number of target bases of each row, (b,): target positions, or the bases of target tokens."""
        if self.token_targets is not None:
            return torch.from_numpy(self.token_targets.bases)
        return (self.labels != IGNORE_INDEX).sum(1)

    @property
    def length(self) -> int:
        """Bases in a window."""
        return self.input_ids.shape[1] if self.token_targets is None else self.token_targets.length


class StepDataset(Dataset["list[Batch] | UserError"]):
    """The micro-batches of one rank, indexed by step.

    A `UserError` is returned instead of raised, because DataLoader would add a traceback to its message.
    """

    def __init__(
        self,
        windows: Windows,
        masking: Masking | NextBase,
        *,
        micro_batch: int,
        accumulation: int,
        rank: int,
        world: int,
        last_step: int,
        start: int = 0,
        boundaries: BoundarySource | None = None,
    ) -> None:
        self._windows = windows
        self._masking = masking
        self._shape = (accumulation, world, micro_batch)
        self._rank = rank
        self._last_step = last_step
        self._start = start
        self._boundaries = boundaries
        self._located: tuple[int, Locations] | None = None

    def __getitem__(self, index: int) -> list[Batch] | UserError:
        positions = self.positions(index)
        try:
            locations = self._locations(index)
            self._prefetch_next(index)
            ids, damaged = self._windows.read(locations)
            masked = self._masking.windows(ids, self._windows.shards.fingerprint, positions.ravel())
            found = None if self._boundaries is None else self._boundaries(masked.input_ids, locations)
        except UserError as error:
            return error
        shards, length = self._windows.shards, self._windows.length
        accumulation, _, size = self._shape
        batches = []
        for micro in range(accumulation):
            rows = range(micro * size, (micro + 1) * size)
            names = {row: window_name(shards, locations.contig[row], locations.start[row], length) for row in damaged}
            quarantined = tuple(QuarantinedWindow(names[row], damaged[row]) for row in rows if row in damaged)
            part = slice(rows.start, rows.stop)
            batches.append(
                Batch(
                    torch.from_numpy(masked.input_ids[part]),
                    torch.from_numpy(masked.labels[part]),
                    int(positions[micro, 0]),
                    size,
                    quarantined,
                    token_targets=_token_targets(self._masking, masked, length, part),
                    boundaries=None if found is None else torch.from_numpy(found[part]),
                )
            )
        return batches

    def positions(self, index: int) -> np.ndarray:
        """Stream positions of this rank's windows in a step: (accumulation, micro_batch) int64."""
        size = math.prod(self._shape)
        return (self._start + np.arange(index * size, (index + 1) * size)).reshape(self._shape)[:, self._rank]

    def _locations(self, index: int) -> Locations:
        """Locations of this rank's windows in a step. They are computed for several steps at once and cached."""
        size = self._shape[0] * self._shape[2]
        steps = max(1, _LOOKUP_WINDOWS // size)
        number, offset = divmod(index, steps)
        if self._located is None or self._located[0] != number:
            positions = [self.positions(step).ravel() for step in range(number * steps, (number + 1) * steps)]
            self._located = number, self._windows.locations(np.concatenate(positions))
        return self._located[1].rows(offset * size, (offset + 1) * size)

    def _prefetch_next(self, index: int) -> None:
        """Start fetching the remote blocks of the next step that this process prepares."""
        worker = get_worker_info()
        following = index + (worker.num_workers if worker else 1)
        if following < self._last_step:
            self._windows.prefetch(self._locations(following))


def training_steps(
    windows: Windows,
    masking: Masking | NextBase,
    *,
    micro_batch: int,
    accumulation: int,
    rank: int,
    world: int,
    first_step: int,
    last_step: int,
    workers: int = 0,
    boundaries: BoundarySource | None = None,
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of one rank, one list per optimizer step.

    Window ``i`` of micro-batch ``m`` of step ``s`` on rank ``r`` is at position
    ``((s * accumulation + m) * world + r) * micro_batch + i``. In each micro-step, all ranks together therefore read
    the same windows as a single rank with a micro-batch of ``world * micro_batch`` windows.

    Args:
        windows: the stream of windows.
        masking: how targets are selected.
        micro_batch: windows in one forward pass of one rank.
        accumulation: micro-batches per step.
        rank: rank of this process, from 0.
        world: number of ranks.
        first_step: first step to yield; when resuming, the number of completed steps.
        last_step: one past the last step to yield.
        workers: DataLoader worker processes; 0 prepares batches in this process. Does not affect the batches.
        boundaries: source of chunk boundaries.

    Yields:
        One list of ``accumulation`` batches per step.

    Raises:
        TransientError: a worker was killed, or a read failed but may succeed later.
        UserError: a shard cannot be read; or a shard is missing, damaged or changed, and the set was opened with
            ``on_damaged="stop"``.
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
            boundaries=boundaries,
        ),
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        collate_fn=_to_numpy,
        # By default, a loader draws its seed from torch's global generator, which changes the generator's state.
        generator=torch.Generator(),
        # The parent-death signal follows the thread that forked, so a short-lived thread would end its workers.
        worker_init_fn=partial(_init_worker, os.getpid()) if _in_main_thread() else None,
    )
    steps = _iterate(loader)
    del loader
    try:
        while True:
            step = next(steps)
            if isinstance(step, UserError):
                raise step
            yield [_to_tensors(batch) for batch in step]
    except StopIteration:
        return
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TransientError(
            f"a DataLoader worker died: {error}; if it ran out of memory, reduce data.workers; run the same command "
            "again to resume from the last checkpoint"
        ) from None
    finally:
        # An exception keeps this frame alive, and with it the iterator and its workers.
        del steps


def _iterate(loader: DataLoader[list[Batch] | UserError]) -> Iterator[list[Batch] | UserError]:
    """Iterate over a loader without the SIGCHLD handler of torch.

    When a worker dies, this handler would raise an error at an arbitrary point of the program. Without the
    handler, the request for the next batch still raises an error within seconds.
    """
    with worker_errors("data.workers"):
        # If locks run out halfway, DataLoader prints a traceback in addition to the error.
        locks = [multiprocessing.Lock() for _ in range(4 * loader.num_workers + 16 if loader.num_workers else 0)]
        del locks
        if not _in_main_thread():
            return iter(loader)
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            return iter(loader)
        finally:
            signal.signal(signal.SIGCHLD, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _init_worker(parent: int, _: int) -> None:
    """Make this worker exit with its parent; otherwise it would keep the parent's connections and locks open."""
    exit_with_parent(parent)


def _to_tensors(batch: Batch) -> Batch:
    """Convert the arrays of a batch from a worker to tensors."""
    tensors: dict[str, Any] = {name: torch.as_tensor(getattr(batch, name)) for name in _tensor_names(batch)}
    return replace(batch, **tensors)


def _tensor_names(batch: Batch) -> list[str]:
    return ["input_ids", "labels", *(["boundaries"] if batch.boundaries is not None else [])]


def _to_numpy(step: list[Batch] | UserError) -> list[Any] | UserError:
    """Convert the tensors of a step to arrays.

    DataLoader workers send arrays through pipes, but tensors through /dev/shm, and hang if it is full.
    """
    if isinstance(step, UserError):
        return step
    arrays: list[Any] = [{name: getattr(batch, name).numpy() for name in _tensor_names(batch)} for batch in step]
    return [replace(batch, **values) for batch, values in zip(step, arrays, strict=True)]


def validation_batches(
    shards: ShardSet,
    split: str,
    *,
    length: int,
    max_windows: int,
    batch: int,
    rank: int,
    world: int,
    masking: Masking | NextBase,
    max_n_run: int = 100,
    boundaries: BoundarySource | None = None,
) -> Iterator[Batch]:
    """Batches of a fixed set of windows with fixed masks, distributed over the ranks batch by batch.

    The windows are spread evenly over the split, on the forward strand, and do not depend on the number of ranks. Every
    rank yields the same number of batches. The last batch of a rank may have fewer windows. If no windows are left,
    the last batch of the rank is a filler: one row without targets.

    Args:
        shards: the shard set.
        split: name of the split.
        length: bases in a window.
        max_windows: maximum number of windows.
        batch: windows in a batch of one rank.
        rank: rank of this process, from 0.
        world: number of ranks.
        masking: how targets are selected; masks are independent of those in training.
        max_n_run: longest run of N allowed in a window.
        boundaries: source of chunk boundaries.

    Returns:
        Iterator over the batches of this rank.

    Raises:
        UserError: no such split, or no window fits in the split. During iteration: a shard cannot be read; or a shard
            is missing, damaged or changed, and the set was opened with ``on_damaged="stop"``.
    """
    assert max_windows >= 1 and batch >= 1 and 0 <= rank < world
    segments = find_segments(shards, split, length, max_n_run)
    count = min(max_windows, segments.total)
    window = np.arange(count) * segments.total // count

    def batches() -> Iterator[Batch]:
        for begin in range(0, count, world * batch):
            first = begin + rank * batch
            local = window[first : first + batch]
            rows = local if len(local) else window[-1:]
            contig, start = segments.locate(rows, length)
            ids, damaged = shards.read_windows(contig, start, length)
            masked = masking.windows(ids, shards.fingerprint, rows, stream="validation")
            if not len(local):
                masked.labels[:], masked.target_bases[:] = IGNORE_INDEX, 0
            quarantined = tuple(
                QuarantinedWindow(window_name(shards, contig[row], start[row], length), reason)
                for row, reason in damaged
            )
            locations = Locations(np.zeros(len(rows), dtype=np.int64), contig, start, np.zeros(len(rows), dtype=bool))
            tensors = torch.from_numpy(masked.input_ids), torch.from_numpy(masked.labels)
            targets = _token_targets(masking, masked, length)
            found = None if boundaries is None else torch.from_numpy(boundaries(masked.input_ids, locations))
            yield Batch(*tensors, first, len(local), quarantined, locations, targets, found)

    return batches()


def _token_targets(
    masking: Masking | NextBase, masked: MaskedWindows, length: int, rows: slice = slice(None)
) -> TokenTargets | None:
    return None if masking.tokenizer is None else TokenTargets(masked.target_bases[rows], length)
