"""Failure detector of the watchdog, on rank 0: receives progress from all ranks, and ends the job if a rank fails."""

import json
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ldarnet.runtime.rank_log import LOG

HEARTBEAT_SECONDS = 2.0
UNREACHABLE_SECONDS = 30
"""Seconds without a network response after which a host is considered lost."""

GRACE_SECONDS = 1.0
"""Seconds between the first failure and the end of the job. If a rank dies, other ranks may report errors before its
death is detected; the dead rank is reported as the cause if its death is detected within this time."""

SHUTDOWN_SECONDS = 5.0
"""Maximum seconds to wait for the other ranks to exit once the detector ends the job."""

MAX_LINE_BYTES = 65536

MAX_LISTED_RANKS = 8
"""Maximum number of ranks listed in an error message."""


class JsonLines:
    """Reads JSON objects, one per line, from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self._rest = connection, b""

    def read(self) -> list[dict[str, Any]] | None:
        """Return the messages since the last call; None if the peer disconnected or sent invalid data.

        Blocks for at most the socket's timeout.
        """
        try:
            received = self.connection.recv(MAX_LINE_BYTES)
            *lines, self._rest = (self._rest + received).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except TimeoutError:
            return []
        except (OSError, ValueError):
            return None
        valid = received and len(self._rest) < MAX_LINE_BYTES and all(isinstance(message, dict) for message in messages)
        return messages if valid else None


@dataclass
class RankStatus:
    """Last reported progress of a rank.

    Attributes:
        connection: socket connected to the rank.
        lines: reader of the rank's messages.
        number: number of phases that the rank has entered so far; -1 before its first report.
        since: monotonic time, in seconds, of the first report of the current phase.
        where: last reported phase and step, as text for error messages.
    """

    connection: socket.socket
    lines: JsonLines
    number: int = -1
    since: float = 0.0
    where: str = "before training"


class FailureDetector:
    """Detects ranks that die, fail or hang. Runs in a thread on rank 0; all ranks connect to it.

    Args:
        host: address at which the other ranks reach this host.
        size: number of ranks.
        token: secret shared by all ranks; connections that do not send this token are dropped.
        timeout: seconds without progress after which a rank is considered hung.

    Attributes:
        port: TCP port on which the detector listens.
        others_ended: event that is cleared while the detector ends the other ranks, and set otherwise. Rank 0 waits for
            this event before it exits, because its exit would discard messages that the other ranks have not read yet.
    """

    def __init__(self, host: str, size: int, token: str, timeout: float) -> None:
        self._listener = _listen_on(host, size)
        self.port = self._listener.getsockname()[1]
        self._token, self._timeout = token, timeout
        self._ranks: dict[int, RankStatus] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._causes: list[tuple[bool, int, str]] = []
        self._closing, self.others_ended = threading.Event(), threading.Event()
        self.others_ended.set()
        self._thread = threading.Thread(target=self._run, name="failure-detector", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the detector, and notify the ranks that are still connected."""
        self._closing.set()
        self._thread.join()
        self._send_all({"bye": True})
        for rank in self._ranks.values():
            rank.connection.close()
        self._listener.close()

    def _run(self) -> None:
        """Run the detector; end all ranks if the detector itself fails."""
        try:
            self._listen()
        except Exception as error:
            LOG.exception("the failure detector failed")
            self._send_all({"end": f"the failure detector on rank 0 failed: {error!r}", "rank": 0})
            for key in self._selector.get_map().values():
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()  # ranks that have not registered yet exit, too
        finally:
            self.others_ended.set()

    def _listen(self) -> None:
        last_beat, decided = 0.0, None
        while not self._closing.is_set():
            self._receive_all()
            now = time.monotonic()
            if now - last_beat > HEARTBEAT_SECONDS:
                last_beat = now
                self._send_all({"beat": True})
                if not self._causes:
                    self._find_hanging(now)
            if self._causes:
                decided = decided or now
                if now - decided > GRACE_SECONDS:
                    _, rank, text = min(self._causes, key=lambda cause: not cause[0])
                    self.others_ended.clear()
                    self._send_all({"end": text, "rank": rank})
                    self._wait_for_others()
                    return

    def _wait_for_others(self) -> None:
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        while any(self._ranks) and time.monotonic() < deadline:
            self._receive_all()

    def _receive_all(self) -> None:
        for key, _ in self._selector.select(HEARTBEAT_SECONDS / 4):
            self._accept() if key.data is None else self._receive(key.data)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
            keep_alive(connection)
        except OSError as error:
            LOG.error("cannot accept the connection of a rank: %s", error)
            self._closing.wait(HEARTBEAT_SECONDS / 4)
            return
        connection.settimeout(HEARTBEAT_SECONDS)
        self._selector.register(connection, selectors.EVENT_READ, JsonLines(connection))

    def _receive(self, lines: JsonLines) -> None:
        connection = lines.connection
        number = next((number for number, rank in self._ranks.items() if rank.lines is lines), None)
        messages = lines.read()
        if messages is None:
            self._drop(connection)
            if number is not None:
                where = self._ranks.pop(number).where
                self._causes.append((True, number, f"rank {number} died, last seen {where}"))
            return
        for message in messages:
            if number is None:
                if message.get("token") != self._token:
                    self._drop(connection)
                    return
                number = message["rank"]
                self._ranks[number] = RankStatus(connection, lines, since=time.monotonic())
            elif "number" in message:
                rank = self._ranks[number]
                rank.where = f"in phase {message['phase']} of step {message['step'] + 1}"
                if message["number"] != rank.number:
                    rank.number, rank.since = message["number"], time.monotonic()
            elif "failed" in message:
                where = self._ranks[number].where
                self._causes.append((False, number, f"rank {number} failed {where}: {message['failed']}"))
            elif "bye" in message:
                self._ranks.pop(number)
                self._drop(connection)
                return

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()

    def _find_hanging(self, now: float) -> None:
        """If any rank makes no progress, report the ranks that have entered the fewest phases as hanging.

        All ranks enter the same phases, so the other ranks are waiting for these ranks.
        """
        if not any(now - rank.since > self._timeout for rank in self._ranks.values()):
            return
        least = min(rank.number for rank in self._ranks.values())
        behind = sorted(number for number, rank in self._ranks.items() if rank.number == least)
        rank = self._ranks[behind[0]]
        names = ", ".join(map(str, behind[:MAX_LISTED_RANKS])) + (", ..." if len(behind) > MAX_LISTED_RANKS else "")
        which = f"rank {names} has" if len(behind) == 1 else f"ranks {names} have"
        text = f"{which} hung {rank.where} for {now - rank.since:.0f} seconds, longer than training.timeout_minutes"
        hint = "see the stack traces of all ranks at the end of logs/rank-*.log"
        self._causes.append((True, behind[0], f"{text}; {hint}"))

    def _send_all(self, message: dict[str, Any]) -> None:
        for rank in self._ranks.values():
            with suppress(OSError):  # a lost connection is detected at the next read
                rank.connection.sendall(json.dumps(message).encode() + b"\n")


def _listen_on(host: str, size: int) -> socket.socket:
    """Open a listening socket: on localhost if the ranks connect to localhost, else on all interfaces."""
    if host in ("localhost", "127.0.0.1"):
        return socket.create_server((host, 0), backlog=size)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=size)


def keep_alive(connection: socket.socket) -> None:
    """Enable TCP keepalive, so that an unreachable host is detected within UNREACHABLE_SECONDS."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": UNREACHABLE_SECONDS // 3,
        "TCP_KEEPINTVL": UNREACHABLE_SECONDS // 6,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": UNREACHABLE_SECONDS * 1000,
    }
    for name, value in options.items():
        if hasattr(socket, name):  # not available on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
