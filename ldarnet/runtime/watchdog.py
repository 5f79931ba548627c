"""Notices a rank that dies, fails or hangs, says which one and where it stood, and ends the job within a bound.

Every rank keeps a connection to rank 0 and tells it every other second how far it has come; the kernel closes the
connection of a process that ends, however it ends. Rank 0 judges and tells all ranks, each of which writes the stacks
of its threads to its log and ends. All of this happens in threads of its own, so it works while the main thread waits
in a collective operation for ever. A main thread that lets no other thread run is ended by a timer of the kernel.
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
from ldarnet.program import FAILED
from ldarnet.runtime.distributed import World
from ldarnet.runtime.rank_log import LOG
from ldarnet.runtime.referee import BEAT_SECONDS, Lines, Referee, keep_alive
from ldarnet.runtime.timers import Phases

LAST_WORD_SECONDS = 10
"""How long a rank that fails waits to be told what was first."""

ALARM_SECONDS = 5
"""What writing the stacks of a rank may take that lets no thread run, before SIGALRM ends it."""


class Watchdog:
    """Watches all ranks inside a `with` block, which every rank enters and leaves.

    Args:
        world: the ranks.
        phases: what this rank is doing.
        log: file for stacks.
        timeout: seconds without progress after which a rank hangs.
    """

    def __init__(self, world: World, phases: Phases, log: TextIO, timeout: float) -> None:
        self._world, self._phases, self._log, self._timeout = world, phases, log, timeout
        self._leaving = threading.Event()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        token = self._world.from_main(lambda: secrets.token_hex(16))
        host = os.environ["MASTER_ADDR"]
        self._referee = Referee(host, self._world.size, token, self._timeout) if self._world.is_main else None
        port = self._world.from_main(lambda: self._referee.port if self._referee else 0)
        with self._world.together():
            self._socket = self._connect(host, port)
        self._tell({"token": token, "rank": self._world.rank})
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, UserError) and self._world.size > 1:
            LOG.error("failed", exc_info=error)
            self._error = error
            self._tell_progress()
            self._tell({"failed": f"{kind.__name__ if kind else ''}: {' '.join(str(error).split())[:500]}"})
            self._thread.join(LAST_WORD_SECONDS)
        self._leaving.set()
        self._tell({"bye": True})
        self._thread.join()
        _disarm()
        if self._referee is not None:
            self._referee.close()
        self._socket.close()

    def _connect(self, host: str, port: int) -> socket.socket:
        try:
            connection = socket.create_connection((host, port), timeout=self._timeout)
        except OSError as error:
            raise UserError(
                f"rank {self._world.rank} cannot reach rank 0 at {host}, port {port}: {error}; let no firewall stand "
                "between the nodes"
            ) from None
        connection.settimeout(BEAT_SECONDS)
        keep_alive(connection)
        return connection

    def _run(self) -> None:
        """Never leave training unwatched."""
        try:
            self._watch()
        except Exception as error:
            self._error = error
            self._end(f"the watchdog of rank {self._world.rank} failed: {error!r}", about=self._world.rank)

    def _watch(self) -> None:
        lines, heard = Lines(self._socket), time.monotonic()
        while not self._leaving.is_set():
            _arm(self._timeout + LAST_WORD_SECONDS, self._log)
            self._tell_progress()
            messages = lines.read()
            if messages is None:
                self._end("rank 0 died, or the network to its host is gone", about=0)
                return
            for message in messages:
                heard = time.monotonic()
                if "end" in message:
                    self._end(message["end"], message["rank"])
                if "bye" in message:
                    return
            if time.monotonic() - heard > self._timeout + LAST_WORD_SECONDS:
                self._end("rank 0 does not answer any more", about=0)

    def _tell_progress(self) -> None:
        now = self._phases.now
        self._tell({"number": now.number, "step": now.step, "phase": now.name})

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # noticed when it is read
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _end(self, text: str, about: int) -> None:
        """End this process, whatever its main thread is doing."""
        if self._leaving.is_set():
            return
        try:
            text = f"{text}; the same command goes on from the last checkpoint, if there is one"
            LOG.error("error: %s", text)
            faulthandler.dump_traceback(self._log)
            if self._world.is_main or about == 0:
                print(f"error: {text}", file=sys.stderr, flush=True)
            if self._world.rank == about and self._error is not None:
                traceback.print_exception(self._error)
            sys.stdout.flush()
            if self._referee is not None:
                self._referee.alone.wait(LAST_WORD_SECONDS)
        finally:  # console and log may be gone
            os._exit(FAILED)


def _arm(seconds: float, log: TextIO) -> None:
    """Unless this is called again in time, write all stacks, and let SIGALRM end the process; neither needs a thread.

    The interpreter's own timer could end it too, but with status 1, that of a mistake.
    """
    faulthandler.dump_traceback_later(seconds, file=log)
    signal.setitimer(signal.ITIMER_REAL, seconds + ALARM_SECONDS)


def _disarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
