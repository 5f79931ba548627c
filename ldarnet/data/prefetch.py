"""Reading ahead: what one process has under way in its threads."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ldarnet.data.cache import MemoryCache

AHEAD_BYTES = 64 * 2**20
"""What may be on its way at a time in each process, and what may wait in its memory where there is no disk cache."""

THREADS = 4


class _Task:
    """Something that is done once, by whoever claims it first, or given up."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self._unclaimed = threading.Semaphore(1)

    def claim(self) -> bool:
        """Whether nobody claimed it before."""
        return self._unclaimed.acquire(blocking=False)


class Ahead:
    """A few daemon threads, begun when first needed, and the blocks that they are fetching.

    Attributes:
        process: the only process in which it works.
        kept: what was fetched and could not be kept on disk.
        bytes: on their way.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.kept = MemoryCache(AHEAD_BYTES)
        self.bytes = 0
        self._under_way: dict[int, _Task] = {}
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __contains__(self, block: int) -> bool:
        return block in self._under_way

    def begin(self, blocks: Sequence[int], size: int, fetch: Callable[[], None]) -> None:
        """Have a thread call ``fetch``, for ``blocks`` of ``size`` bytes together. What it raises is dropped."""
        task = _Task()
        with self._lock:
            self.bytes += size
            self._under_way |= dict.fromkeys(blocks, task)

        def work() -> None:
            if task.claim():
                with suppress(Exception):
                    fetch()
            with self._lock:
                self.bytes -= size
                for block in blocks:
                    del self._under_way[block]
            task.done.set()

        self._queue.put(work)
        if len(self._threads) < THREADS:
            self._threads.append(threading.Thread(target=self._work, name="ldarnet-prefetch", daemon=True))
            self._threads[-1].start()

    def wait_for(self, block: int) -> None:
        """Return when nothing is fetching ``block``; what has not begun to is given up, lest it wait for others."""
        task = self._under_way.get(block)
        if task is None:
            return
        if task.claim():
            task.done.set()
        task.done.wait()

    def _work(self) -> None:
        while True:
            self._queue.get()()
