"""Joining a Ray cluster that runs already, or starting one on this machine."""

import logging
import socket
from collections.abc import Mapping
from typing import Any

from ldarnet.errors import TransientError

CONNECT_SECONDS = 10.0


def connect(address: str | None, option: str, local: Mapping[str, Any]) -> None:
    """Connect this process to a cluster; `ray.shutdown()` takes it back.

    Args:
        address: `host:port` or `auto`; None for a new cluster of this machine.
        option: what the user named the address with, for messages.
        local: arguments of `ray.init` for a new cluster.

    Raises:
        TransientError: no cluster answers.
    """
    import ray

    try:
        if address is not None:
            _knock(address)
        own = local if address is None else {}
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise TransientError(
            f"{option}{address or ''}: no cluster answers ({' '.join(str(error).split())}); start one, correct the "
            "address, or set the environment variable RAY_AUTH_MODE=token if it asks for a token"
        ) from None


def _knock(address: str) -> None:
    """Raise an OSError unless something listens at `host:port`: Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
