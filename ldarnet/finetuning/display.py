"""Console output of fine-tuning on rank 0: a progress bar on a terminal, one line per epoch."""

import time
from typing import Any

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from ldarnet.console import Printer, Throttle, format_chunks, format_duration, format_speed, make_console, progress_bar
from ldarnet.tasks.metrics import metric_name

LOG_SECONDS = 60.0
"""Interval between progress lines within an epoch."""


class FinetuneProgress(Printer):
    """Console progress of fine-tuning.

    Args:
        shown: whether this rank prints; True on rank 0 only.
    """

    def __init__(self, shown: bool) -> None:
        console = make_console(quiet=not shown)
        self._bar = progress_bar(
            console,
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._bar.add_task("", total=1, visible=False)
        self._epoch: tuple[str, float, int] | None = None
        self._throttle = Throttle(LOG_SECONDS)
        super().__init__(console, self._bar)

    def step(self, fold: int, epoch: int, done: int, steps: int) -> None:
        """Show progress within an epoch: update the bar on a terminal, otherwise print a line once a minute."""
        now, label = time.monotonic(), f"fold {fold}  epoch {epoch}"
        self._bar.update(self._task, description=label, completed=done, total=steps, visible=done < steps)
        if self._epoch is None or self._epoch[0] != label:
            self._epoch = (label, now, done)
            self._throttle.reset()
        elif not self.on_terminal and self._throttle.ready():
            _, begin, before = self._epoch
            left = (now - begin) / (done - before) * (steps - done)
            self.info(f"{label}  step {done:,} of {steps:,}  {format_duration(left)} remaining in this epoch")

    def epoch(self, fold: int, epochs: int, line: dict[str, Any], metric: str, best: bool) -> None:
        """Print the metrics of an epoch from `line`, a line of metrics.jsonl; `best` marks the best epoch so far."""
        trained = "" if line["train_loss"] is None else f"  loss {line['train_loss']:.4f}"
        pace = "" if line["bases_per_second"] is None else f"  {format_speed(line['bases_per_second'])}"
        chunks = format_chunks(line["bases_per_chunk"])
        self.info(
            f"fold {fold}  epoch {line['epoch']}/{epochs}{trained}  validation: loss {line['loss']:.4f}  "
            f"{metric_name(metric)} {number(line[metric])}{chunks}{pace}{'  best' if best else ''}"
        )


def number(value: float | None) -> str:
    """Format a metric value with four decimals; `-` if the value is undefined (None)."""
    return "-" if value is None else f"{value:.4f}"
