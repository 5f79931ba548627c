"""Build batches of variable-length sequences. The order of rows depends only on seed, fold and epoch.

Shapes: B rows, L positions including padding.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldarnet.alphabet import PAD, encode, reverse_complement
from ldarnet.errors import UserError
from ldarnet.tokenization import Tokenization


def cropped(sequence: str, max_length: int | None) -> str:
    """Crop a sequence to its central `max_length` bases; None disables cropping."""
    if max_length is None or len(sequence) <= max_length:
        return sequence
    begin = crop_start(len(sequence), max_length)
    return sequence[begin : begin + max_length]


def crop_start(length: int, max_length: int | None) -> int:
    """Index of the first base that `cropped` keeps of a sequence."""
    return 0 if max_length is None else max(0, (length - max_length) // 2)


def encoded(sequences: list[str]) -> list[np.ndarray]:
    """Encode the bases of each sequence as ids, (L,) uint8."""
    return [encode(sequence) for sequence in sequences]


def padded(rows: list[np.ndarray], tokenizer: Tokenization | None = None) -> tuple[Tensor, Tensor]:
    """Tokenize rows of bases, pad them to the length of the longest row and stack them into a batch.

    Args:
        rows: bases of each sequence, uint8.
        tokenizer: tokens of the model; None for a model that reads bases.

    Returns:
        Token ids (B, L), uint8 for bases and int32 for tokens, right-padded with [PAD]; and the mask (B, L) bool, False
        on [PAD]; both on the CPU.
    """
    if tokenizer is not None:
        rows = [tokenizer.encode(row) for row in rows]
    ids = np.full((len(rows), max(map(len, rows))), PAD, dtype=rows[0].dtype)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return torch.from_numpy(ids), torch.from_numpy(ids != PAD)


@dataclass(frozen=True)
class Epoch:
    """Batches of one epoch.

    Attributes:
        batches: row indices of each optimizer step (global batch); batch sizes differ by at most one.
        flipped: (n,) bool, True for rows that are reverse-complemented in this epoch.
    """

    batches: list[np.ndarray]
    flipped: np.ndarray

    @classmethod
    def of(cls, rows: int, batch: int, *, seed: tuple[int, ...], both_strands: bool) -> "Epoch":
        """Shuffle the indices of `rows` rows and split them into the fewest batches of at most `batch` rows."""
        rng = np.random.default_rng(seed)
        order, flipped = rng.permutation(rows), rng.random(rows) < 0.5
        return cls(np.array_split(order, -(-rows // batch)), flipped & both_strands)

    def local_rows(self, step: int, micro_step: int, accumulation: int, rank: int, ranks: int) -> np.ndarray:
        """Indices of the rows that `rank` processes in one micro-step; `step` counts from 0 within the epoch."""
        return np.array_split(np.array_split(self.batches[step], accumulation)[micro_step], ranks)[rank]

    def oriented(self, rows: list[np.ndarray], index: np.ndarray) -> list[np.ndarray]:
        """Token ids of the rows in `index`, reverse-complemented where `flipped` is True."""
        return [reverse_complement(rows[row]) if self.flipped[row] else rows[row] for row in index]


def check_batch_size(rows: int, batch: int, accumulation: int, ranks: int) -> None:
    """Check that every rank gets at least one row in every micro-step.

    Raises:
        UserError: the smallest batch has fewer than `accumulation * ranks` rows.
    """
    smallest = rows // -(-rows // batch)
    if smallest < accumulation * ranks:
        raise UserError(
            f"training.batch={batch} is too small for {ranks} ranks with training.accumulation={accumulation}: the "
            f"smallest batch has {smallest} rows, fewer than {accumulation * ranks}; raise training.batch to "
            f"{2 * accumulation * ranks} or more, or launch fewer ranks"
        )
