"""SIGTERM and SIGINT: noted here, acted on by all ranks together at the next step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop; a second signal changes nothing."""

    def __init__(self) -> None:
        self.received: str | None = None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.received = self.received or signal.Signals(number).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Catch the signals inside the block, and restore what was there before after it."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in CAUGHT}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
