"""Progress along a genome: a bar on a terminal, otherwise a plain line at intervals."""

from __future__ import annotations

import time

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from ldarnet.console import Printer, Throttle, format_duration, format_speed, make_console, progress_bar
from ldarnet.printable import printable

LINE_SECONDS = 10.0
"""Seconds between plain lines when stderr is not a terminal."""


class GenomeProgress(Printer):
    """Prints progress in bases, throughput and remaining time to stderr.

    Attributes:
        computed: number of bases computed so far, without those of earlier runs.
    """

    def __init__(self, total: int) -> None:
        """Start the clock; ``total`` is the number of bases."""
        self._total, self._done, self.computed = total, 0, 0
        self._start, self._throttle = time.monotonic(), Throttle(LINE_SECONDS)
        console = make_console(stderr=True)
        self._bar = progress_bar(
            console,
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[speed]}  ETA"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._bar.add_task("", total=total, speed="")
        super().__init__(console, self._bar)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def speed(self) -> str:
        """Throughput so far."""
        return format_speed(self.computed / max(self.seconds, 1e-9))

    def advance(self, contig: str, bases: int, reused: bool) -> None:
        """Count bases of a contig; ``reused`` if an earlier run computed them."""
        self._done += bases
        self.computed += 0 if reused else bases
        contig = printable(contig)
        self._bar.update(self._task, completed=self._done, description=contig, speed=self.speed)
        if not self.on_terminal and self._throttle.ready():
            eta = self.seconds / max(self.computed, 1) * (self._total - self._done)
            share = self._done / self._total
            self.info(f"{contig}  {share:.0%} of {self._total:,} bases  {self.speed}  ETA {format_duration(eta)}")
