"""Registry of kernel backends.

The backend named ``torch`` is the PyTorch reference of an operation and runs on every device and dtype. The others are
faster, but need a specific device or package; :mod:`ldarnet.ops.dispatch` selects one.
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
    """Implementation of an operation.

    Attributes:
        operation: name of the operation, for example ``ssd``.
        name: name of the backend, for example ``mamba-ssm``.
        function: implementation; all backends of an operation take the same arguments.
        devices: supported device types; empty for all.
        dtypes: supported input dtypes; empty for all.
        package: module that must be installed; empty if none is needed.
        install: command that installs the package.
    """

    operation: str
    name: str
    function: Callable[..., Any]
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    package: str = ""
    install: str = ""

    def unsupported_reason(self, device: str, dtype: torch.dtype) -> str:
        """Reason why this backend cannot run on a device type with a dtype; empty if it can."""
        if self.devices and device not in self.devices:
            return f"runs on {', '.join(self.devices)}, not on {device}"
        if self.dtypes and dtype not in self.dtypes:
            return f"supports {' and '.join(map(dtype_name, self.dtypes))}, not {dtype_name(dtype)}"
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed; run: {self.install}"
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
    """Decorator that registers a function as a backend; ``auto`` prefers backends registered later."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        backend = Backend(operation, name, function, devices, dtypes, package, install)
        _BACKENDS.setdefault(operation, {})[name] = backend
        return function

    return decorate


def operations() -> tuple[str, ...]:
    """Names of all operations."""
    return tuple(_BACKENDS)


def backends_of(operation: str) -> dict[str, Backend]:
    """Backends of an operation by name, from the reference to the most preferred."""
    return _BACKENDS[operation]


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype without the ``torch.`` prefix."""
    return str(dtype).removeprefix("torch.")
