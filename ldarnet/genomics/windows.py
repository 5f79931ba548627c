"""Overlapping windows along a contig, anchored to the contig.

The grid cuts a contig into cores of equal length: core k starts at position k * stride. The model reads each core with
a margin on both sides, and only the values of the core are used. Each value is therefore a function of the sequence,
the position, the window length and the margin; it does not depend on where a region starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ldarnet.errors import UserError
from ldarnet.genomics.genome import GenomeRecord
from ldarnet.genomics.regions import Intervals

MIN_WINDOW = 8
MARGIN_FRACTION = 8
"""By default, a margin is this fraction of the window: 1/8."""
UNKNOWN_WINDOW = 4096
"""Window of a model whose training length is unknown."""


@dataclass(frozen=True, slots=True)
class CoreWindow:
    """A window and its core, in positions on the contig."""

    start: int
    end: int
    core_start: int
    core_end: int


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """Grid of overlapping windows.

    Attributes:
        window: bases that the model reads at once, `MIN_WINDOW` or more.
        margin: bases on both sides of a core, at least 1; by default, an eighth of the window.
    """

    window: int
    margin: int

    @classmethod
    def of(cls, window: int, margin: int | None = None) -> WindowGrid:
        """Build a grid.

        Raises:
            UserError: the window is too short, or the margins leave no core.
        """
        if window < MIN_WINDOW:
            raise UserError(f"--window {window}: too short; choose at least {MIN_WINDOW} bases")
        margin = window // MARGIN_FRACTION if margin is None else margin
        if not 1 <= margin < window / 2:
            raise UserError(f"--margin {margin}: out of range; choose 1 to {(window - 1) // 2} bases for this window")
        return cls(window, margin)

    @property
    def stride(self) -> int:
        """Bases per core."""
        return self.window - 2 * self.margin

    def core_at(self, record: GenomeRecord, position: int) -> CoreWindow:
        """Window whose core covers a position of a record.

        Windows end at the ends of the record. A record that fits into one window is one core.
        """
        if record.length <= self.window:
            return CoreWindow(record.start, record.end, record.start, record.end)
        first = position // self.stride * self.stride
        core_start, core_end = max(first, record.start), min(first + self.stride, record.end)
        return CoreWindow(
            max(core_start - self.margin, record.start), min(core_end + self.margin, record.end), core_start, core_end
        )

    def over(self, record: GenomeRecord, intervals: Intervals) -> Iterator[CoreWindow]:
        """Yield the windows whose cores overlap sorted, disjoint intervals of a record; each window once."""
        done = record.start
        for start, end in intervals.tolist():
            position = max(start, done)
            while position < end:
                window = self.core_at(record, position)
                yield window
                position = done = window.core_end
