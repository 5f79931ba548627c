"""Every implementation of every operation of the model.

An operation's backend named ``torch`` is its reference in plain PyTorch: it runs on every device and dtype. The others
are faster and need a device or a package; :mod:`ldarnet.ops.dispatch` chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

REFERENCE = "torch"


@dataclass(frozen=True)
class Backend:
    """An implementation of an operation.

    Attributes:
        operation: the operation's name, e.g. ``ssd``.
        name: the backend's name, e.g. ``torch``.
        function: the implementation; all backends of one operation take the same arguments.
        devices: device types it runs on; empty means all.
        dtypes: of its inputs; empty means all.
        package: the module that must be importable, or none.
        install: the command that installs that package.
    """

    operation: str
    name: str
    function: Callable[..., Any]
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    package: str = ""
    install: str = ""

    def unsupported_reason(self, device: str, dtype: torch.dtype) -> str:
        """Why this backend cannot run on a device type and dtype; empty when it can."""
        if self.devices and device not in self.devices:
            return f"runs on {', '.join(self.devices)}, not on {device}"
        if self.dtypes and dtype not in self.dtypes:
            return f"takes {' or '.join(map(short, self.dtypes))}, not {short(dtype)}"
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed; install it with: {self.install}"
        return ""


_BACKENDS: dict[str, dict[str, Backend]] = {}


def register(
    operation: str,
    name: str,
    *,
    devices: tuple[str, ...] = (),
    dtypes: tuple[torch.dtype, ...] = (),
    package: str = "",
    install: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function as a backend of an operation; one registered later is preferred to those before it."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        backend = Backend(operation, name, function, devices, dtypes, package, install)
        _BACKENDS.setdefault(operation, {})[name] = backend
        return function

    return decorate


def operations() -> tuple[str, ...]:
    """The names of the operations."""
    return tuple(_BACKENDS)


def backends_of(operation: str) -> dict[str, Backend]:
    """The backends of an operation by name, the reference first, the most preferred last."""
    return _BACKENDS[operation]


def short(dtype: torch.dtype) -> str:
    """The name of a dtype without ``torch.``."""
    return str(dtype).removeprefix("torch.")
