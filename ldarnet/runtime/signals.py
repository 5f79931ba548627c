"""Stop signals: SIGTERM, SIGINT and SIGUSR1 stop all ranks at the next step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ldarnet.runtime.distributed import World

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Records the first stop signal; later signals are ignored.

    Attributes:
        received: name of the stop signal received; None before.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: record the signal."""
        self.received = self.received or signal.Signals(number).name

    def agree(self, world: World) -> None:
        """Make a signal received by any rank known to all ranks; every rank must call this method."""
        self.received = world.gather([self.received] if self.received else [])[0]


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch stop signals inside the block, and restore the previous handlers after it."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
