"""What a rank is doing now, and how long it has spent on each kind of work since it was last asked."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """Where a rank stands: the phase `name` of step number `step` (from 0), since `since` (time.monotonic seconds).

    All ranks go through the same phases, so the one with the lowest `number` has come least far.
    """

    step: int
    name: str
    since: float
    number: int = 0


class Phases:
    """The phases of training on one rank, one after the other, entered by the loop alone.

    On a GPU `forward`, `backward` and `update` last as long as it takes to launch the work, unless something waits for
    its result.

    Attributes:
        now: the phase at present; other threads may read it.
    """

    def __init__(self, step: int = 0) -> None:
        self.now = Moment(step, "start", time.monotonic())
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, step: int, name: str) -> Iterator[None]:
        """Be in a phase inside the block, and in the one before it afterwards, unless an error leaves the block."""
        outer, begin = self.now.name, time.monotonic()
        self.now = Moment(step, name, begin, self.now.number + 1)
        yield
        end = time.monotonic()
        self._seconds[name] += end - begin
        self.now = Moment(step, outer, end, self.now.number + 1)

    def take(self) -> dict[str, float]:
        """Seconds by phase since the last call."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
