"""Progress of a build: a bar on a terminal, a line every 30 s elsewhere."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ldarnet.console import Throttle, format_speed, progress_bar
from sharding.receipts import Receipts

_POLL_SECONDS = 0.5
_LINE_SECONDS = 30.0


@contextmanager
def show_progress(console: Console, receipts: Receipts, total: int | None) -> Iterator[None]:
    """Inside the ``with`` block, show the progress of a build, based on the receipts that workers write.

    Args:
        console: console to print to.
        receipts: the receipts of the build.
        total: total size of all sources in bytes; None or 0 if unknown.
    """
    bar = progress_bar(
        console,
        TextColumn("packing"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with bar:
        follower = _Follower(console, bar, receipts, total)
        thread = threading.Thread(target=follower.run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            follower.done.set()
            thread.join()


class _Follower:
    def __init__(self, console: Console, bar: Progress, receipts: Receipts, total: int | None) -> None:
        self.done = threading.Event()
        self._console = console
        self._bar = bar
        self._receipts = receipts
        self._total = total
        self._task = bar.add_task("packing", total=total, speed="")
        self._known: set[str] = set()
        self._read, _ = self._new()
        self._bases = 0

    def run(self) -> None:
        began, throttle = time.monotonic(), Throttle(_LINE_SECONDS)
        ended = False
        while not ended:
            ended = self.done.wait(_POLL_SECONDS)
            read, bases = self._new()
            self._read += read
            self._bases += bases
            speed = format_speed(self._bases / (time.monotonic() - began))
            self._bar.update(self._task, completed=self._read, speed=speed)
            if not self._console.is_terminal and throttle.ready():
                done = f"{self._read / self._total:.0%}" if self._total else f"{self._read:,} bytes"
                self._console.print(f"packed {done} of the input, {speed}", highlight=False, soft_wrap=True)

    def _new(self) -> tuple[int, int]:
        """Count the bytes read and the bases packed since the last call."""
        new = list(self._receipts.new(self._known))
        return sum(receipt.read for receipt in new), sum(int(receipt.contigs["length"].sum()) for receipt in new)
