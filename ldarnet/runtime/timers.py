"""Timers for the phases of a step; the watchdog also uses them to monitor the progress of a rank."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class CurrentPhase:
    """The phase that a rank is in.

    Attributes:
        step: step number, counted from 0.
        name: name of the phase.
        since: monotonic time, in seconds, at which the phase began.
        number: number of phases entered so far; all ranks enter the same phases, so the ranks with the lowest number
            are behind.
    """

    step: int
    name: str
    since: float
    number: int = 0


class StepTimers:
    """Measures the seconds that this rank spends in each phase of a step (data, forward, ...).

    On a GPU, `forward`, `backward` and `update` only measure kernel launch time, unless the phase synchronizes.

    Attributes:
        now: the current phase; may be read from other threads.
    """

    def __init__(self, step: int = 0) -> None:
        self.now = CurrentPhase(step, "start", time.monotonic())
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, step: int, name: str) -> Iterator[None]:
        """Time the block as a phase, then restore the enclosing phase; an error leaves `now` at the failed phase."""
        outer, begin = self.now.name, time.monotonic()
        self.now = CurrentPhase(step, name, begin, self.now.number + 1)
        yield
        end = time.monotonic()
        self._seconds[name] += end - begin
        self.now = CurrentPhase(step, outer, end, self.now.number + 1)

    def take(self) -> dict[str, float]:
        """Return the seconds per phase since the last call, and reset the timers."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
