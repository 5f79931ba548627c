"""Prefetch remote blocks in daemon threads."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from ldarnet.io.cache import MemoryCache

MAX_PREFETCH_BYTES = 64 * 2**20
"""Maximum bytes in flight per process; also the maximum bytes of fetched data in memory if there is no disk cache."""

MAX_THREADS = 4


class _FetchTask:
    """A fetch that is either executed by a thread or canceled by `Prefetcher.wait_for`, whichever claims it first."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self._free = threading.Semaphore(1)

    def claim(self) -> bool:
        """Claim the task; return whether this is the first claim."""
        return self._free.acquire(blocking=False)


class Prefetcher:
    """A pool of daemon threads, started on demand, and the blocks that they are fetching.

    Attributes:
        process: ID of the process that created the pool; the pool cannot be used after a fork.
        fetched: memory cache of the fetched blocks that could not be stored in a disk cache.
        bytes: bytes in flight.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.fetched = MemoryCache(MAX_PREFETCH_BYTES)
        self.bytes = 0
        self._in_flight: dict[int, _FetchTask] = {}
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def __contains__(self, block: int) -> bool:
        return block in self._in_flight

    def submit(self, blocks: Sequence[int], size: int, fetch: Callable[[], None]) -> None:
        """Call ``fetch`` in a thread to fetch ``blocks`` (``size`` bytes in total). Exceptions are discarded."""
        task = _FetchTask()
        with self._lock:
            self.bytes += size
            self._in_flight |= dict.fromkeys(blocks, task)

        def work() -> None:
            if task.claim():
                with suppress(Exception):
                    fetch()
            with self._lock:
                self.bytes -= size
                for block in blocks:
                    del self._in_flight[block]
            task.done.set()

        self._queue.put(work)
        if len(self._threads) < MAX_THREADS:
            self._threads.append(threading.Thread(target=self._work, name="ldarnet-prefetch", daemon=True))
            self._threads[-1].start()

    def wait_for(self, block: int) -> None:
        """If ``block`` is being fetched, wait for the fetch to end; if the fetch is still queued, cancel it."""
        task = self._in_flight.get(block)
        if task is None:
            return
        if task.claim():
            task.done.set()
        task.done.wait()

    def _work(self) -> None:
        while True:
            self._queue.get()()
