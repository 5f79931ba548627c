"""Watchdog: if a rank dies, fails or hangs, reports the rank and its phase, and ends the job in bounded time.

Every rank keeps a connection to rank 0 and sends its progress every two seconds. When a process ends for any reason,
the operating system closes its connection. If rank 0 detects a failure, it notifies all ranks, and each rank writes the
stack traces of its threads to its rank log and exits. The watchdog runs in separate threads, so it works while the main
thread is stuck in a collective. If the main thread blocks all other threads, a timer of the operating system ends the
process.
"""

import faulthandler
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO

from ldarnet.errors import UserError
from ldarnet.printable import printable
from ldarnet.program import FAILED
from ldarnet.redaction import redact
from ldarnet.runtime.distributed import World
from ldarnet.runtime.failure_detector import HEARTBEAT_SECONDS, FailureDetector, JsonLines, keep_alive
from ldarnet.runtime.rank_log import LOG
from ldarnet.runtime.timers import StepTimers

VERDICT_SECONDS = 10
"""Seconds that a failed rank waits for rank 0 to report which rank failed first."""

ALARM_SECONDS = 5
"""Seconds between the stack dump of a process whose threads are blocked and the SIGALRM that ends it."""


class Watchdog:
    """Watches all ranks inside a `with` block; every rank must enter and leave the block.

    Args:
        world: the process group.
        timers: timers of this rank, which show its progress.
        log: file for stack traces.
        timeout: seconds without progress after which a rank is considered hung.
    """

    def __init__(self, world: World, timers: StepTimers, log: TextIO, timeout: float) -> None:
        self._world, self._timers, self._log, self._timeout = world, timers, log, timeout
        self._leaving = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        token = self._world.from_main(lambda: secrets.token_hex(16))
        host = os.environ["MASTER_ADDR"]
        self._detector = FailureDetector(host, self._world.size, token, self._timeout) if self._world.is_main else None
        port = self._world.from_main(lambda: self._detector.port if self._detector else 0)
        with self._world.together():
            self._socket = self._connect(host, port)
        self._send({"token": token, "rank": self._world.rank})
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, UserError) and self._world.size > 1:
            LOG.error("failed", exc_info=error)
            self._error = error
            self._send_progress()
            self._send({"failed": f"{kind.__name__ if kind else ''}: {' '.join(str(error).split())[:500]}"})
            self._thread.join(VERDICT_SECONDS)
        self._leaving.set()
        self._send({"bye": True})
        self._thread.join()
        _disarm()
        if self._detector is not None:
            self._detector.close()
        self._socket.close()

    def _connect(self, host: str, port: int) -> socket.socket:
        try:
            connection = socket.create_connection((host, port), timeout=self._timeout)
        except OSError as error:
            raise UserError(
                f"rank {self._world.rank} cannot reach rank 0 at {host}:{port}: {error}; check that no firewall blocks "
                "traffic between the nodes"
            ) from None
        connection.settimeout(HEARTBEAT_SECONDS)
        keep_alive(connection)
        return connection

    def _run(self) -> None:
        """Run the watchdog; end this rank if the watchdog itself fails."""
        try:
            self._watch()
        except Exception as error:
            self._error = error
            self._end(f"the watchdog of rank {self._world.rank} failed: {error!r}", about=self._world.rank)

    def _watch(self) -> None:
        lines, last_message = JsonLines(self._socket), time.monotonic()
        while not self._leaving.is_set():
            _arm(self._timeout + VERDICT_SECONDS, self._log)
            self._send_progress()
            messages = lines.read()
            if messages is None:
                self._end("rank 0 died, or its host is unreachable", about=0)
                return
            for message in messages:
                last_message = time.monotonic()
                if "end" in message:
                    self._end(message["end"], message["rank"])
                if "bye" in message:
                    return
            if time.monotonic() - last_message > self._timeout + VERDICT_SECONDS:
                self._end("rank 0 does not respond", about=0)

    def _send_progress(self) -> None:
        now = self._timers.now
        self._send({"number": now.number, "step": now.step, "phase": now.name})

    def _send(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # a lost connection is detected at the next read
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _end(self, text: str, about: int) -> None:
        """Report the failure of rank `about` and exit the process, even if the main thread is blocked."""
        if self._leaving.is_set():
            return
        try:
            text = f"{text}; run the same command again to resume from the last checkpoint"
            LOG.error("error: %s", text)
            faulthandler.dump_traceback(self._log)
            if self._world.is_main or about == 0:
                print(f"error: {printable(text)}", file=sys.stderr, flush=True)
            if self._world.rank == about and self._error is not None:
                print(redact("".join(traceback.format_exception(self._error))), end="", file=sys.stderr)
            sys.stdout.flush()
            if self._detector is not None:
                self._detector.others_ended.wait(VERDICT_SECONDS)
        finally:  # exit even if console and log cannot be written
            os._exit(FAILED)


def _arm(seconds: float, log: TextIO) -> None:
    """Schedule a stack dump of all threads, followed by SIGALRM, which ends the process; each call postpones both.

    Both work even if no Python thread can run. faulthandler could also end the process, but only with exit status 1,
    which means a user error.
    """
    faulthandler.dump_traceback_later(seconds, file=log)
    signal.setitimer(signal.ITIMER_REAL, seconds + ALARM_SECONDS)


def _disarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
