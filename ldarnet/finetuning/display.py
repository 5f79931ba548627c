"""What rank 0 shows of fine-tuning: a live bar on a terminal, one line an epoch, and the table of folds."""

import time
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ldarnet.console import Printer, chunks, clock, console_of, speed
from ldarnet.tasks.metrics import NAMES

TELL_SECONDS = 60.0
"""Between lines on an epoch that takes long."""


class Display(Printer):
    """Prints for the one rank that may.

    Args:
        shown: whether this rank prints at all.
    """

    def __init__(self, shown: bool) -> None:
        console = console_of(shown)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1, visible=False)
        self._epoch: tuple[str, float, int] | None = None
        self._told = 0.0
        super().__init__(console, self._bar)

    def step(self, fold: int, epoch: int, done: int, steps: int) -> None:
        """So many steps of an epoch are done: told by the bar, or where there is none once a minute."""
        now, place = time.monotonic(), f"fold {fold}  epoch {epoch}"
        self._bar.update(self._task, description=place, completed=done, total=steps, visible=done < steps)
        if self._epoch is None or self._epoch[0] != place:
            self._epoch, self._told = (place, now, done), now
        elif not self.on_terminal and now - self._told >= TELL_SECONDS:
            _, begin, before = self._epoch
            left = (now - begin) / (done - before) * (steps - done)
            self.say(f"{place}  step {done:,} of {steps:,}  {clock(left)} left in this epoch")
            self._told = now

    def epoch(self, fold: int, epochs: int, line: dict[str, Any], metric: str, best: bool) -> None:
        """Show a line of metrics.jsonl."""
        trained = "" if line["train_loss"] is None else f"  loss {line['train_loss']:.4f}"
        pace = "" if line["bases_per_second"] is None else f"  {speed(line['bases_per_second'])}"
        self.say(
            f"fold {fold}  epoch {line['epoch']}/{epochs}{trained}  validation: loss {line['loss']:.4f}  "
            f"{NAMES[metric]} {number(line[metric])}{chunks(line['bases_per_chunk'])}{pace}{'  best' if best else ''}"
        )


def number(value: float | None) -> str:
    """A metric in four digits; a dash where it is not defined."""
    return "-" if value is None else f"{value:.4f}"
