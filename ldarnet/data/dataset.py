"""Windows in the exact order of pretraining, as a PyTorch dataset for any training loop."""

from collections.abc import Iterator

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ldarnet.data.loader import StepDataset
from ldarnet.data.masking import Masking
from ldarnet.data.windows import MAX_POSITION, Windows
from ldarnet.errors import UserError


class WindowDataset(IterableDataset[dict[str, torch.Tensor]]):
    """Batches of masked windows in the order of pretraining.

    Batch ``k`` of rank ``r`` holds ``batch_size`` consecutive windows of the stream. The first of them is at position
    ``start + (k * world + r) * batch_size``. With ``start=0``, batch ``k`` equals micro-batch ``k`` of a pretraining
    run with the same settings, including strands and masks.

    Load the dataset with ``DataLoader(dataset, batch_size=None, num_workers=n)``. The batches and their order do not
    depend on ``n``. To resume, advance ``start`` by the number of windows that all ranks together have consumed;
    ``batch_size`` and ``world`` may change.

    Yields:
        A dict with ``input_ids`` and ``labels``, (batch_size, length) int64 each, and ``positions``, (batch_size,)
        int64, the stream position of each window. Labels are -100 where a base is not a target. In a set opened with
        ``on_damaged="quarantine"``, a window on a damaged or missing block is all N and has no targets.

    Raises:
        UserError: a shard cannot be read; or a shard is missing, damaged or changed, and the set was opened with
            ``on_damaged="stop"``.
    """

    def __init__(
        self,
        windows: Windows,
        masking: Masking | None = None,
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        stop: int = MAX_POSITION,
    ) -> None:
        """Select the part of the stream to read.

        Args:
            windows: the stream of windows.
            masking: masking probabilities and seed; by default ``Masking()``. ``Masking(rate=0)`` masks nothing.
            batch_size: windows in a batch of one rank.
            rank: rank of this process, from 0.
            world: number of ranks.
            start: first position. Without weights or temperature, epoch e starts at position ``e * len(windows)``.
            stop: one past the last position; by default, the stream does not end. Windows at the end that do not fill
                one batch on every rank are dropped.
        """
        assert batch_size >= 1 and 0 <= rank < world and 0 <= start <= stop <= MAX_POSITION
        self._batches = (stop - start) // (world * batch_size)
        self._steps = StepDataset(
            windows,
            masking or Masking(),
            micro_batch=batch_size,
            accumulation=1,
            rank=rank,
            world=world,
            last_step=self._batches,
            start=start,
        )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the batches of this rank. With n DataLoader workers, worker i yields batches i, i + n, i + 2 n, ..."""
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(first, self._batches, stride):
            batches = self._steps[number]
            if isinstance(batches, UserError):
                raise batches
            yield {
                "input_ids": batches[0].input_ids.long(),
                "labels": batches[0].labels.long(),
                "positions": torch.from_numpy(self._steps.positions(number)[0]),
            }
