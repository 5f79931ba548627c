"""Checks that need only torch: the machine, its maximum rates, and every kernel against its reference."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.results import Result
from benchmarks.record import provenance
from benchmarks.worker import describe, report_partial
from ldarnet.doctor import examine_machine
from ldarnet.errors import UserError
from ldarnet.ops import Backend, backends_of, choose_backends, input_dtype, skip_reason, tf32
from ldarnet.ops.verify import DEFAULT_SIZES, TOLERANCES, Sizes, max_error

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("transformers", "deepspeed", "triton", "mamba-ssm", "causal-conv1d", "flash-attn")
VERIFICATION_LENGTHS = (5, 64, 1, 200, 63, 1000, 128)
"""Lengths of the packed sequences on which backends are verified."""
REPEATS, WARM_UPS = 10, 3
SMALL_LAUNCHES = 1000


def machine(device: str, command: str) -> Result:
    """Report the machine, the versions, and the identity of the results.

    Raises:
        UserError: the device is a GPU, but torch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU available to torch; install a CUDA build of torch, or test with --dry-run")
    packages = {package["name"]: package["version"] for package in examine_machine()["packages"]}
    return {
        "identity": {
            "code": code_digest(),
            "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
            "torch": torch.__version__,
            **{name: packages.get(name) for name in VERSIONS},
        },
        "made_with": provenance(command).splitlines(),
    }


def code_digest() -> str:
    """Abbreviated SHA-256 of the code of the packages `ldarnet` and `benchmarks`."""
    digest = hashlib.sha256()
    for package in ("benchmarks", "ldarnet"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def rates(device: str, copy_bytes: int, size: int, rows: int, width: int) -> Result:
    """Measure rates of the device, the best of several calls; bytes/s, FLOP/s and seconds per launch.

    Args:
        device: `cuda` or `cpu`.
        copy_bytes: size of a copied tensor.
        size: number of rows and columns of square matrices.
        rows: rows of a matrix product with the shapes of the model.
        width: width of the model; the product maps it to four times this width.
    """
    result: Result = {}

    def copy() -> float:
        source = torch.empty(copy_bytes, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return 2 * copy_bytes / best(device, lambda: target.copy_(source))

    def product(dtype: torch.dtype, m: int, k: int, n: int) -> float:
        left, right = (torch.randn(*shape, device=device).to(dtype) for shape in ((m, k), (k, n)))
        return 2 * m * k * n / best(device, lambda: torch.mm(left, right))

    result["memory"] = copy()
    report_partial(result)
    result["bfloat16, square"] = product(torch.bfloat16, size, size, size)
    result["bfloat16"] = product(torch.bfloat16, rows, width, 4 * width)
    result["float32"] = product(torch.float32, rows, width, width)
    report_partial(result)
    with tf32():
        result["tf32"] = product(torch.float32, rows, width, width)
    number = torch.zeros(1, device=device)

    def launches() -> None:
        for _ in range(SMALL_LAUNCHES):
            number.add_(1)

    result["seconds_per_launch"] = best(device, launches) / SMALL_LAUNCHES
    return result


def best(device: str, call: Callable[[], Any]) -> float:
    """Shortest duration of a call in seconds, including the work that it launches."""
    seconds = []
    for _ in range(WARM_UPS + REPEATS):
        synchronize(device)
        begin = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[WARM_UPS:])


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def backends(device: str, dtype: str, model: str) -> Result:
    """Select the backends of a model as `auto` does, and give the reasons why preferred ones are skipped."""
    from ldarnet.model import LDARNetConfig
    from ldarnet.model.kernel_options import kernel_options

    options, kind = kernel_options(LDARNetConfig.preset(model)), getattr(torch, dtype)
    begin = time.perf_counter()
    selected = choose_backends(device, kind, options)
    seconds = time.perf_counter() - begin
    skipped = {}
    for operation, name in selected.items():
        known, sizes = backends_of(operation), options.sizes.get(operation, (DEFAULT_SIZES,))
        for other in list(known)[list(known).index(name) + 1 :]:  # preferred to the selected one: the reason is known
            skipped[f"{operation}={other}"] = skip_reason(known[other], device, input_dtype(operation, kind), sizes)
    return {"seconds": seconds, "selected": selected, "skipped": skipped}


def verification(device: str, dtype: str, operation: str, full_size: bool) -> Result:
    """Compare outputs and gradients of every backend of an operation with the float64 reference.

    Args:
        device: `cuda` or `cpu`.
        dtype: dtype of the inputs.
        operation: name of the operation.
        full_size: use the sizes of the outermost stage of ldarnet-110m instead of small ones.

    Raises:
        RuntimeError: the device cannot be used after an error in a kernel; reported with the results so far.
    """
    found: dict[str, Any] = {}
    for name, backend in backends_of(operation).items():
        found[name] = _verify(backend, device, getattr(torch, dtype), DEFAULT_SIZES if full_size else None)
        report_partial({"backends": found})
        synchronize(device)
    return {"backends": found}


def _verify(backend: Backend, device: str, dtype: torch.dtype, sizes: Sizes | None) -> Result:
    if reason := backend.unsupported_reason(device, dtype):
        return {"unsupported_reason": reason}
    begin, limit = time.perf_counter(), TOLERANCES[dtype]
    try:
        error = max_error(backend, device, dtype, VERIFICATION_LENGTHS, sizes=sizes)
    except Exception as failure:
        return {"error": describe(failure), "passed": False}
    seconds = time.perf_counter() - begin
    return {"max_error": error, "tolerance": limit, "passed": error <= limit, "seconds": seconds}
