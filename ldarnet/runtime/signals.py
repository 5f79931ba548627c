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
        received: name of the first stop signal; None if none has been received.
    """

    def __init__(self) -> None:
        self.received: str | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: record the signal."""
        self.received = self.received or signal.Signals(number).name

    def agree(self, world: World) -> None:
        """Set `received` to the same signal on all ranks; every rank must call this method.

        At least one rank must have received a signal; the signal of the lowest such rank is used.
        """
        self.received = world.gather([self.received] if self.received else [])[0]


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch stop signals inside the block, then restore the previous handlers."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
