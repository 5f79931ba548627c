"""How fast a run goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class SpeedMeter:
    """Bases per second between log lines, not counting validation and saving.

    Args:
        seconds: time the run has taken before this start.
    """

    def __init__(self, seconds: float) -> None:
        self._begin = time.perf_counter() - seconds
        self._lap = time.perf_counter()
        self._bases = 0

    def add(self, bases: int) -> None:
        """Count the bases of a step."""
        self._bases += bases

    def lap(self) -> float:
        """Bases per second since the last call."""
        now = time.perf_counter()
        speed = self._bases / max(now - self._lap, 1e-9)
        self._lap, self._bases = now, 0
        return speed

    @property
    def seconds(self) -> float:
        """Time the run has taken over all its starts, everything included."""
        return time.perf_counter() - self._begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the block's time in the speed."""
        begin = time.perf_counter()
        yield
        self._lap += time.perf_counter() - begin
