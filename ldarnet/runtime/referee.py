"""The part of the watchdog on rank 0: hears from all ranks, and tells them when one of them is lost."""

import json
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ldarnet.runtime.rank_log import LOG

BEAT_SECONDS = 2.0
SILENT_SECONDS = 30
"""A host that does not answer on the network for this long is gone."""

GRACE_SECONDS = 1.0
"""A rank's death makes others fail: so long it may be reported after them, and is still the cause."""

FAREWELL_SECONDS = 5.0
"""How long ranks that have been told of the end may take to go."""

LONGEST_LINE = 65536

MOST_NAMED = 8


class Lines:
    """Lines of JSON from a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self._rest = connection, b""

    def read(self) -> list[dict[str, Any]] | None:
        """The messages that have arrived since the last call; None when the other side is gone or talks nonsense.

        It waits for them as long as the timeout of the socket.
        """
        try:
            received = self.connection.recv(LONGEST_LINE)
            *lines, self._rest = (self._rest + received).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except TimeoutError:
            return []
        except (OSError, ValueError):
            return None
        sound = received and len(self._rest) < LONGEST_LINE and all(isinstance(message, dict) for message in messages)
        return messages if sound else None


@dataclass
class Rank:
    """What the referee knows of a rank: what it told last, and since when it has been there (monotonic seconds)."""

    connection: socket.socket
    lines: Lines
    number: int = -1
    since: float = 0.0
    where: str = "before training"


class Referee:
    """Listens on a port of rank 0 in a thread of its own.

    Args:
        host: address of this host as the other ranks know it.
        size: ranks.
        token: that a rank shows; who does not is not heard.
        timeout: seconds without progress after which a rank hangs.

    Attributes:
        port: that it listens on.
        alone: not set while other ranks hear of the end and go. Rank 0 goes after them: its end would reset their
            connections, and what they have not read yet would be lost.
    """

    def __init__(self, host: str, size: int, token: str, timeout: float) -> None:
        self._listener = _listen_on(host, size)
        self.port = self._listener.getsockname()[1]
        self._token, self._timeout = token, timeout
        self._ranks: dict[int, Rank] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._causes: list[tuple[bool, int, str]] = []
        self._closing, self.alone = threading.Event(), threading.Event()
        self.alone.set()
        self._thread = threading.Thread(target=self._run, name="referee", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say goodbye to the ranks that are left, and end."""
        self._closing.set()
        self._thread.join()
        self._tell({"bye": True})
        for rank in self._ranks.values():
            rank.connection.close()
        self._listener.close()

    def _run(self) -> None:
        """Never leave the ranks without a referee."""
        try:
            self._listen()
        except Exception as error:
            LOG.exception("the referee failed")
            self._tell({"end": f"the referee on rank 0 failed: {error!r}", "rank": 0})
            for key in self._selector.get_map().values():
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()  # which ends a rank that has not been heard yet
        finally:
            self.alone.set()

    def _listen(self) -> None:
        beat, judged = 0.0, None
        while not self._closing.is_set():
            self._hear_all()
            now = time.monotonic()
            if now - beat > BEAT_SECONDS:
                beat = now
                self._tell({"beat": True})
                if not self._causes:
                    self._find_hanging(now)
            if self._causes:
                judged = judged or now
                if now - judged > GRACE_SECONDS:
                    _, rank, text = min(self._causes, key=lambda cause: not cause[0])
                    self.alone.clear()
                    self._tell({"end": text, "rank": rank})
                    self._wait_for_others()
                    return

    def _wait_for_others(self) -> None:
        deadline = time.monotonic() + FAREWELL_SECONDS
        while any(self._ranks) and time.monotonic() < deadline:
            self._hear_all()

    def _hear_all(self) -> None:
        for key, _ in self._selector.select(BEAT_SECONDS / 4):
            self._accept() if key.data is None else self._hear(key.data)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
            keep_alive(connection)
        except OSError as error:
            LOG.error("the referee cannot hear a rank: %s", error)
            self._closing.wait(BEAT_SECONDS / 4)
            return
        connection.settimeout(BEAT_SECONDS)
        self._selector.register(connection, selectors.EVENT_READ, Lines(connection))

    def _hear(self, lines: Lines) -> None:
        connection = lines.connection
        number = next((number for number, rank in self._ranks.items() if rank.lines is lines), None)
        messages = lines.read()
        if messages is None:
            self._drop(connection)
            if number is not None:
                where = self._ranks.pop(number).where
                self._causes.append((True, number, f"rank {number} died, last heard of {where}"))
            return
        for message in messages:
            if number is None:
                if message.get("token") != self._token:
                    self._drop(connection)
                    return
                number = message["rank"]
                self._ranks[number] = Rank(connection, lines, since=time.monotonic())
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
        """All ranks go through the same phases, so the one that has come least far is the one they wait for."""
        if not any(now - rank.since > self._timeout for rank in self._ranks.values()):
            return
        least = min(rank.number for rank in self._ranks.values())
        behind = sorted(number for number, rank in self._ranks.items() if rank.number == least)
        rank = self._ranks[behind[0]]
        names = ", ".join(map(str, behind[:MOST_NAMED])) + (", ..." if len(behind) > MOST_NAMED else "")
        which = f"rank {names} hangs" if len(behind) == 1 else f"ranks {names} hang"
        text = f"{which} {rank.where} for {now - rank.since:.0f} seconds, longer than training.timeout_minutes"
        self._causes.append((True, behind[0], f"{text}; the ends of logs/rank-*.log tell what each rank was doing"))

    def _tell(self, message: dict[str, Any]) -> None:
        for rank in self._ranks.values():
            with suppress(OSError):  # noticed when it is read
                rank.connection.sendall(json.dumps(message).encode() + b"\n")


def _listen_on(host: str, size: int) -> socket.socket:
    """A listening socket: for this host alone where the ranks know it by no other name, else on all its networks."""
    if host in ("localhost", "127.0.0.1"):
        return socket.create_server((host, 0), backlog=size)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=size)


def keep_alive(connection: socket.socket) -> None:
    """Let the kernel find out within SILENT_SECONDS that the other host is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": SILENT_SECONDS // 3,
        "TCP_KEEPINTVL": SILENT_SECONDS // 6,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": SILENT_SECONDS * 1000,
    }
    for name, value in options.items():
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
