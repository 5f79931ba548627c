"""Boundaries, bases and coordinates of all selected intervals on one axis.

Shapes: T positions of the axis, N loci, W window offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.regions import Selection
from ldarnet.genomics.scoring import WindowScorer
from ldarnet.genomics.stitching import START, stitched
from ldarnet.genomics.windows import WindowGrid

GAP = 1024
"""Positions without values between intervals, so that no window reaches from one interval into another."""


@dataclass(frozen=True)
class Landscape:
    """The selected intervals, laid end to end with gaps.

    The boundary at position t is the one before base t of the forward strand.

    Attributes:
        ids: (T,) uint8 token ids; N in the gaps.
        probability: (T,) float32 boundary probability; NaN where there is none, and in the gaps.
        boundary: (T,) bool, boundaries that the model selects.
        soft_masked: (T,) bool, lowercase bases.
        contigs: contig of each interval.
        starts: (I,) position of the first base of each interval on its contig.
        offsets: (I,) its position on the axis.
        lengths: (I,) number of bases.
    """

    ids: np.ndarray
    probability: np.ndarray
    boundary: np.ndarray
    soft_masked: np.ndarray
    contigs: tuple[str, ...]
    starts: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """Positions with a boundary probability, (T,) bool."""
        return ~np.isnan(self.probability)

    def locate(self, contig: str, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Positions on the axis of bases ``start`` of a contig; -1 if start..end is not within one interval."""
        found = np.full(len(start), -1, np.int64)
        for row, name in enumerate(self.contigs):
            if name == contig:
                first = self.starts[row]
                inside = (start >= first) & (end <= first + self.lengths[row])
                found[inside] = start[inside] - first + self.offsets[row]
        return found

    def coordinates(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the contig, and coordinate on it, of positions; (N,) int64 each."""
        row = np.searchsorted(self.offsets, positions, side="right") - 1
        contig = np.unique(np.array(self.contigs), return_inverse=True)[1].reshape(-1)
        return contig[row], positions - self.offsets[row] + self.starts[row]

    def blocks(self, positions: np.ndarray, size: int) -> np.ndarray:
        """Number positions by the block of ``size`` bases of the contig that they are in; (N,) int64, from 0 on."""
        contig, at = self.coordinates(positions)
        pairs = np.stack([contig, at // size], axis=1)
        return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def read_landscape(
    genome: Genome,
    selection: Selection,
    scorer: WindowScorer,
    grid: WindowGrid,
    batch: int,
    advance: Callable[[str, int, bool], None],
) -> Landscape:
    """Compute the boundaries of the selected intervals.

    Args:
        genome: the genome.
        selection: its intervals.
        scorer: scorer whose first signal and first set of chunks are used.
        grid: windows.
        batch: windows per forward pass.
        advance: progress callback: contig, number of bases, False.

    Raises:
        UserError: the genome changed while it was read, or no position has a boundary probability.
    """
    records = {record.number: record for record in genome.records}
    name, signal = next(iter(scorer.chunks.items()))
    parts: dict[str, list[np.ndarray]] = {"ids": [], "probability": [], "boundary": [], "soft_masked": []}
    contigs, starts, offsets, lengths, at = list[str](), list[int](), list[int](), list[int](), GAP

    def add(ids: np.ndarray, probability: np.ndarray, boundary: np.ndarray, soft_masked: np.ndarray) -> None:
        for key, values in zip(parts, (ids, probability, boundary, soft_masked), strict=True):
            parts[key].append(values)

    gap = (
        np.full(GAP, alphabet.N, np.uint8),
        np.full(GAP, np.nan, np.float32),
        np.zeros(GAP, bool),
        np.zeros(GAP, bool),
    )
    add(*gap)
    for number, sequence in genome.sequences(set(selection)):
        record, intervals = records[number], selection[number]
        ids, soft_masked = alphabet.encode(sequence), np.frombuffer(sequence, np.uint8) >= ord("a")
        if len(ids) != record.length:
            raise UserError(f"{genome.path}: changed while it was read; run the same command again")
        found = [(np.full(e - s, np.nan, np.float32), np.zeros(e - s, bool)) for s, e in intervals.tolist()]
        for piece in stitched(record, ids, intervals, grid, scorer, batch):
            first = piece.start - int(intervals[piece.interval, 0])
            length = len(piece.signals[signal])
            found[piece.interval][0][first : first + length] = piece.signals[signal]
            found[piece.interval][1][first : first + length] = piece.breaks[name] == START
            advance(record.contig, length, False)
        for (start, end), (probability, boundary) in zip(intervals.tolist(), found, strict=True):
            cut = slice(start - record.start, end - record.start)
            boundary &= ~np.isnan(probability)  # the first base of a record begins a chunk without a probability
            add(ids[cut], probability, boundary, soft_masked[cut])
            add(*gap)
            contigs.append(record.contig)
            starts.append(start)
            offsets.append(at)
            lengths.append(end - start)
            at += end - start + GAP
    columns = {key: np.concatenate(values) for key, values in parts.items()}
    if np.isnan(columns["probability"]).all():
        raise UserError(f"{genome.path}: the selected regions have no A, C, G or T; choose others with --region")
    return Landscape(
        **columns, contigs=tuple(contigs), starts=np.array(starts), offsets=np.array(offsets), lengths=np.array(lengths)
    )
