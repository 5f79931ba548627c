"""Batches for training and validation; the same global batches whatever the ranks, workers and restarts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ldarnet.alphabet import NOT_SCORED
from ldarnet.data.masking import Masking
from ldarnet.data.reader import ShardSet
from ldarnet.data.windows import Windows, find_stretches, read_windows
from ldarnet.errors import UserError


@dataclass(frozen=True, slots=True)
class Batch:
    """Some windows for one rank.

    Attributes:
        input_ids: (b, L) int64, what the model sees.
        labels: (b, L) int64, the true base where it is scored, else -100.
        first_position: position of the first window in its stream.
        windows: rows that count; 0 for the filler row that a rank without windows gets in validation.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    first_position: int
    windows: int


class _Steps(Dataset["list[Batch] | UserError"]):
    """The micro-batches of one rank by step.

    An error is an item like any other: raised in a worker it would come wrapped in that worker's traceback.
    """

    def __init__(
        self, windows: Windows, masking: Masking, micro_batch: int, accumulation: int, rank: int, world: int
    ) -> None:
        self._windows = windows
        self._masking = masking
        self._shape = (accumulation, world, micro_batch)
        self._rank = rank

    def __getitem__(self, index: int) -> list[Batch] | UserError:
        size = math.prod(self._shape)
        positions = np.arange(index * size, (index + 1) * size).reshape(self._shape)[:, self._rank]
        try:
            ids = self._windows.batch(positions.ravel()).reshape(*positions.shape, -1)
        except UserError as error:
            return error
        fingerprint = self._windows.shards.fingerprint
        return [
            _batch(
                *self._masking.apply(ids[micro], fingerprint, positions[micro]),
                int(positions[micro, 0]),
                self._shape[2],
            )
            for micro in range(self._shape[0])
        ]


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
        UserError: a shard is missing, damaged or changed.
    """
    assert micro_batch >= 1 and accumulation >= 1 and 0 <= rank < world and 0 <= first_step <= last_step
    loader: DataLoader[list[Batch] | UserError] = DataLoader(
        _Steps(windows, masking, micro_batch, accumulation, rank, world),
        batch_size=None,
        sampler=range(first_step, last_step),
        num_workers=workers,
        collate_fn=_as_it_is,
        # Without a generator of its own the loader would advance the global one.
        generator=torch.Generator(),
    )
    for step in loader:
        if isinstance(step, UserError):
            raise step
        yield step


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
            ids = read_windows(shards, *stretches.place(rows, length), length)
            inputs, labels = masking.apply(ids, shards.fingerprint, rows, stream="validation")
            if not len(mine):
                labels[:] = NOT_SCORED
            yield _batch(inputs, labels, first, len(mine))

    return batches()


def _batch(inputs: np.ndarray, labels: np.ndarray, first_position: int, windows: int) -> Batch:
    return Batch(torch.from_numpy(inputs), torch.from_numpy(labels), first_position, windows)
