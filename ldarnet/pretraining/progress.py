"""Pretraining progress on rank 0: a live progress bar on a terminal, otherwise a plain line at intervals."""

import time
from typing import Any

from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn

from ldarnet.console import Printer, Throttle, format_chunks, format_duration, format_speed, make_console, progress_bar
from ldarnet.io.run_lines import LOSSES, loss_name

LINE_SECONDS = 10.0
"""Seconds between plain lines when the console is not a terminal."""
MIN_DATA_WAIT = 0.1
"""Print the fraction of step time spent waiting for data if it is at least this value."""
ACCURACIES = {
    "accuracy": "accuracy",
    "token_accuracy": "token accuracy",
    "next_base_accuracy": "accuracy",
    "next_token_accuracy": "token accuracy",
}
"""Keys of accuracies in a validation line, and their names. A line has one or both."""


class PretrainProgress(Printer):
    """Prints training and validation lines.

    Args:
        shown: whether this rank prints anything.
        total: optimizer steps of the run.
        completed: optimizer steps completed by earlier launches.
    """

    def __init__(self, shown: bool, total: int = 0, completed: int = 0) -> None:
        console = make_console(quiet=not shown)
        self._total = total
        self._first = completed
        self._start = time.monotonic()
        self._throttle = Throttle(LINE_SECONDS)
        self._bar = progress_bar(
            console,
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        self._task: TaskID = self._bar.add_task("", total=total or None, completed=completed, numbers="")
        super().__init__(console, self._bar)

    def step(self, line: dict[str, Any]) -> None:
        """Update the bar with a training line of metrics.jsonl; without a terminal, print the line at intervals."""
        mfu = f"  MFU {line['mfu']:.0%}" if "mfu" in line else ""
        data_wait = line.get("data_wait", 0.0)
        waiting = f"  data wait {data_wait:.0%}" if data_wait >= MIN_DATA_WAIT else ""
        speed = format_speed(line["bases_per_second"])
        loss = loss_name(line)
        numbers = f"{LOSSES[loss]} {line[loss]:.4f}{format_chunks(line['bases_per_chunk'])}  {speed}{mfu}{waiting}"
        self._bar.update(self._task, completed=line["step"], numbers=numbers)
        if not self.on_terminal and self._throttle.ready(force=line["step"] in (self._first + 1, self._total)):
            done = line["step"] - self._first
            eta = (time.monotonic() - self._start) / max(done, 1) * (self._total - line["step"])
            self.info(f"step {line['step']}/{self._total}  {numbers}  ETA {format_duration(eta)}")

    def validation(self, line: dict[str, Any]) -> None:
        """Print a validation line of metrics.jsonl."""
        accuracies = "".join(f" {name} {line[key]:.1%}" for key, name in ACCURACIES.items() if key in line)
        loss = loss_name(line)
        masked = f"  masked positions: loss {line['mask_loss']:.4f}" if "mask_loss" in line else ""
        self.info(
            f"step {line['step']}/{self._total}  validation: {LOSSES[loss]} {line[loss]:.4f}{masked}{accuracies}"
            f"{format_chunks(line['bases_per_chunk'])}"
        )
