"""Ports and environment variables for the connection between the ranks of a job."""

import random
import socket
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""First and last port that Linux gives to outgoing connections."""
FIRST, LAST = 20_000, 32_767
ATTEMPTS = 100

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that a launcher sets for each rank."""


def free_port() -> int:
    """Choose a free TCP port at random.

    The port is below the ports of outgoing connections, if possible: rank 0 listens on it only seconds later, and until
    then another program's connection could take an ephemeral port.
    """
    try:
        last = int(EPHEMERAL.read_text().split()[0]) - 1
    except (OSError, ValueError, IndexError):
        last = LAST
    ports = range(FIRST, last + 1) or range(FIRST, LAST + 1)
    for _ in range(ATTEMPTS):
        if _is_free(port := random.SystemRandom().choice(ports)):
            return port
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("", port))
        except OSError:
            return False
        return True
