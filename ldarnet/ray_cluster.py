"""Connect to a running Ray cluster, or start one on this machine."""

import logging
import socket
from collections.abc import Mapping
from typing import Any

from ldarnet.errors import TransientError

CONNECT_SECONDS = 10.0


def connect(address: str | None, option: str, local: Mapping[str, Any]) -> None:
    """Connect this process to a Ray cluster; `ray.shutdown()` disconnects it.

    Args:
        address: `host:port` or `auto`; None to start a cluster on this machine.
        option: text before the address in error messages, such as `--ray ` or `ray.address=`.
        local: arguments of `ray.init`, used only if a cluster is started.

    Raises:
        TransientError: the cluster does not answer.
    """
    import ray

    try:
        if address is not None:
            _check_reachable(address)
        options = local if address is None else {}
        ray.init(
            address or "local", log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **options
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise TransientError(
            f"{option}{address or ''}: no Ray cluster answers ({' '.join(str(error).split())}); start one, fix the "
            "address, or set the environment variable RAY_AUTH_MODE=token if it requires a token"
        ) from None


def _check_reachable(address: str) -> None:
    """Raise an OSError unless `host:port` accepts connections; Ray itself would retry for many minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
