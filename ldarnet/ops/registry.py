"""One registry that knows every implementation of every operation and chooses between them.

An operation's backend named ``torch`` is its reference in plain PyTorch: it runs on every device and dtype. The others
are faster and need a device or a package; ``auto`` prefers them where they can run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from ldarnet.errors import UserError

REFERENCE = "torch"


@dataclass(frozen=True)
class Backend:
    """An implementation of an operation.

    Attributes:
        operation: the operation's name, e.g. ``ssd``.
        name: the backend's name, e.g. ``torch``.
        function: the implementation; all backends of one operation take the same arguments.
        devices: device types it runs on; empty means all.
        package: the module that must be importable, or none.
        install: the command that installs that package.
        automatic: whether ``auto`` may choose it; only once it has been shown to agree with the reference.
    """

    operation: str
    name: str
    function: Callable[..., Any]
    devices: frozenset[str] = frozenset()
    package: str = ""
    install: str = ""
    automatic: bool = True

    def obstacle(self, device: str) -> str:
        """Why this backend cannot run on a device type; empty when it can."""
        if self.devices and device not in self.devices:
            return f"it runs on {', '.join(sorted(self.devices))}, not on {device}"
        if self.package and find_spec(self.package) is None:
            return f"{self.package} is not installed; install it with: {self.install}"
        return ""


_BACKENDS: dict[str, dict[str, Backend]] = {}


def register(
    operation: str,
    name: str,
    *,
    devices: tuple[str, ...] = (),
    package: str = "",
    install: str = "",
    automatic: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function as a backend of an operation."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        backend = Backend(operation, name, function, frozenset(devices), package, install, automatic)
        known = _BACKENDS.setdefault(operation, {})
        known[name] = backend
        _BACKENDS[operation] = dict(sorted(known.items(), key=lambda item: item[0] != REFERENCE))
        return function

    return decorate


def backends() -> tuple[Backend, ...]:
    """Every registered backend, the reference of each operation first."""
    return tuple(backend for known in _BACKENDS.values() for backend in known.values())


@lru_cache
def resolve(operation: str, device: str, demand: str = "auto") -> Backend:
    """Choose the backend of an operation on a device type.

    Args:
        operation: the operation's name.
        device: a torch device type, ``cpu`` or ``cuda``.
        demand: a backend's name, or ``auto`` for the reference or, where one can run, a faster one.

    Raises:
        UserError: no such operation or backend, or the demanded one cannot run here.
    """
    known = _BACKENDS.get(operation)
    if known is None:
        raise UserError(f"ops: no operation {operation!r}; the operations are {', '.join(_BACKENDS)}")
    if demand == "auto":
        usable = (backend for backend in reversed(known.values()) if backend.automatic and not backend.obstacle(device))
        return next(usable)
    if demand not in known:
        raise UserError(f"ops.{operation}: no backend {demand!r}; choose auto or one of {', '.join(known)}")
    if obstacle := known[demand].obstacle(device):
        raise UserError(f"ops.{operation}={demand} cannot be met: {obstacle}; or set ops.{operation}=auto")
    return known[demand]


def choose_backends(device: str, demands: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name the backend that each operation uses on a device type under these demands.

    Raises:
        UserError: a demand that cannot be met.
    """
    demands = demands or {}
    for operation in demands.keys() - _BACKENDS.keys():
        resolve(operation, device, demands[operation])
    return {operation: resolve(operation, device, demands.get(operation, "auto")).name for operation in _BACKENDS}
