"""How fast a run goes, and how much of what its devices can do it uses."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ldarnet.model import LDARNetConfig
from ldarnet.model.cost import cost


@dataclass(frozen=True)
class Utilization:
    """Model operations per second and device, from what is measured while a run goes.

    Attributes:
        config: of the model.
        length: bases of a window.
        devices: number of them.
        peak: operations per second that a device can do, if known.
    """

    config: LDARNetConfig
    length: int
    devices: int
    peak: float | None

    def metrics(self, bases_per_second: float, bases_per_chunk: Sequence[float]) -> dict[str, float]:
        """`flops_per_second` of a device and, where its peak is known, `mfu`, the share of the peak that they are.

        What is computed twice to save memory does not count; see :mod:`ldarnet.model.cost`.
        """
        flops = cost(self.config, self.length, bases_per_chunk).training * bases_per_second / self.devices
        return {"flops_per_second": flops, **({"mfu": flops / self.peak} if self.peak else {})}


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
