"""What rank 0 shows: a live line on a terminal, plain lines now and then elsewhere. Other ranks are silent."""

import time
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ldarnet.console import Printer, chunks, clock, console_of, speed

PLAIN_SECONDS = 10.0
MUCH_WAITING = 0.1
"""Share of the time spent waiting for data from which on it is shown."""


class Display(Printer):
    """Prints for the one rank that may.

    Args:
        shown: whether this rank prints at all.
        total: optimiser steps of the run.
        completed: steps already taken.
    """

    def __init__(self, shown: bool, total: int = 0, completed: int = 0) -> None:
        console = console_of(shown)
        self._total = total
        self._first = completed
        self._begin = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID = self._bar.add_task("", total=total or None, completed=completed, numbers="")
        super().__init__(console, self._bar)

    def step(self, line: dict[str, Any]) -> None:
        """Show a line of training metrics."""
        used = f"  MFU {line['mfu']:.0%}" if "mfu" in line else ""
        waits = line.get("data_wait", 0.0)
        used += f"  waiting for data {waits:.0%}" if waits >= MUCH_WAITING else ""
        numbers = f"loss {line['loss']:.4f}{chunks(line['bases_per_chunk'])}  {speed(line['bases_per_second'])}{used}"
        self._bar.update(self._task, completed=line["step"], numbers=numbers)
        now = time.monotonic()
        due = now - self._last_line >= PLAIN_SECONDS or line["step"] in (self._first + 1, self._total)
        if due and not self.on_terminal:
            self._last_line = now
            done = line["step"] - self._first
            eta = (now - self._begin) / max(done, 1) * (self._total - line["step"])
            self.say(f"step {line['step']}/{self._total}  {numbers}  ETA {clock(eta)}")

    def validation(self, line: dict[str, Any]) -> None:
        """Show a line of validation metrics."""
        self.say(
            f"step {line['step']}/{self._total}  validation: MLM loss {line['mlm_loss']:.4f}  on [MASK] "
            f"{line['mask_loss']:.4f}, accuracy {line['accuracy']:.1%}{chunks(line['bases_per_chunk'])}"
        )
