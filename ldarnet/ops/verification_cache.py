"""Cache of verification results, shared by all processes of a user on a machine.

Verification of all kernels of a model takes up to minutes on a GPU, because kernels are compiled and tuned. The error
of each kernel is therefore stored in a file, in the folder ``kernels`` of the default cache folder. The result is used
only for the same GPU, driver, versions, source code, dtype and sizes. While a process verifies a kernel, it holds a
lock, and the other processes of the node wait for the result. Exceptions are not stored: the kernel is verified again.

``LDARNET_KERNEL_CACHE=0`` disables the cache.
"""

import hashlib
import json
import logging
import math
import os
import platform
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from ldarnet.errors import UserError
from ldarnet.ops.registry import Backend, dtype_name
from ldarnet.version import __version__

SWITCH = "LDARNET_KERNEL_CACHE"
"""Environment variable; 0 disables the cache."""

_DRIVER_VERSION = Path("/proc/driver/nvidia/version")
_LOG = logging.getLogger(__name__)
_AGAIN = "verifying the kernel again"


@dataclass(frozen=True)
class VerificationResult:
    """Content of a file.

    Attributes:
        key: what the result depends on, by name.
        error: maximum error relative to the reference; None if it is not finite.
    """

    key: dict[str, str]
    error: float | None


def cached_error(
    backend: Backend, device: str, dtype: torch.dtype, sizes: Mapping[str, int], measure: Callable[[], float]
) -> float:
    """Maximum error of a backend: from the cache, or measured and stored.

    Args:
        backend: backend to verify.
        device: torch device type.
        dtype: dtype of the operation's main input.
        sizes: sizes of the tensors, by name.
        measure: measures the error. Its exceptions are raised, and nothing is stored.
    """
    folder = cache_folder()
    if folder is None:
        return measure()
    if find_spec("pydantic") is None:
        _warn_disabled("pydantic is not installed")
        return measure()
    from ldarnet.io.files import make_folder
    from ldarnet.io.lock import acquire

    entry = _Entry.of(folder, _key(backend, device, dtype, sizes))
    result = entry.read(logging.DEBUG)
    if result is None:
        try:
            lock = acquire(make_folder(folder) / f"{entry.name}.lock")
        except (UserError, OSError) as error:
            _warn_disabled(str(error))
            return measure()
        with lock:
            result = entry.read(logging.WARNING)  # another process may have verified the kernel in the meantime
            if result is None:
                result = entry.write(measure())
    return math.nan if result.error is None else result.error


def cache_folder() -> Path | None:
    """Folder of the cache; None if it is disabled."""
    from ldarnet.io.cache import default_cache_folder

    return None if os.environ.get(SWITCH) == "0" else default_cache_folder() / "kernels"


@dataclass(frozen=True)
class _Entry:
    folder: Path
    name: str
    key: dict[str, str]

    @classmethod
    def of(cls, folder: Path, key: dict[str, str]) -> "_Entry":
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return cls(folder, f"{key['operation']}-{key['backend']}-{digest[:16]}", key)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def read(self, level: int) -> VerificationResult | None:
        """Read the result; None if there is none, or if its file is damaged, which is logged at ``level``."""
        from ldarnet.io.records import read_record

        if not self.path.exists():
            return None
        try:
            result = read_record(self.path, VerificationResult, hint=_AGAIN)
        except UserError as damaged:
            _LOG.log(level, "%s", damaged)
            return None
        if result.key != self.key:
            _LOG.log(level, "%s: result of another kernel or machine; %s", self.path, _AGAIN)
            return None
        return result

    def write(self, error: float) -> VerificationResult:
        """Store a result; if that fails, log a warning."""
        from ldarnet.io.files import write_json_atomic

        result = VerificationResult(self.key, error if math.isfinite(error) else None)
        try:
            write_json_atomic(self.path, asdict(result), indent=2)
        except (UserError, OSError) as failure:
            _warn_disabled(str(failure))
        return result


@cache
def _warn_disabled(reason: str) -> None:
    _LOG.warning("kernel cache disabled: %s", reason)


def _key(backend: Backend, device: str, dtype: torch.dtype, sizes: Mapping[str, int]) -> dict[str, str]:
    """Everything that a result depends on."""
    return {
        "operation": backend.operation,
        "backend": backend.name,
        "dtype": dtype_name(dtype),
        "sizes": " ".join(f"{name}={size}" for name, size in sizes.items()),
        "device": _device(device),
        "ldarnet": __version__,
        "torch": f"{torch.__version__} CUDA {torch.version.cuda}",
        "triton": _version("triton"),
        "package": _version(backend.package),
        "source": _source_hash(backend),
    }


def _device(device: str) -> str:
    if device != "cuda":
        return f"{device} {platform.machine()}"
    major, minor = torch.cuda.get_device_capability()
    driver = _DRIVER_VERSION.read_text().partition("\n")[0] if _DRIVER_VERSION.exists() else ""
    return f"{torch.cuda.get_device_name()} sm_{major}{minor} {driver}"


def _version(package: str) -> str:
    """Installed version of a package; if its distribution has another name, path and time of its module."""
    if not package:
        return ""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    return f"{spec.origin} {Path(spec.origin).stat().st_mtime_ns}"


def _source_hash(backend: Backend) -> str:
    """SHA-256 of all source files of this package, and of the module that defines the backend."""
    files = {str(path) for path in Path(__file__).parent.rglob("*.py")}
    if module := getattr(sys.modules.get(backend.function.__module__), "__file__", None):
        files.add(module)
    hashed = hashlib.sha256()
    for file in sorted(files):
        hashed.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return hashed.hexdigest()
