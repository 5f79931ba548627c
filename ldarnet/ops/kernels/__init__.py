"""LDARNet's Triton kernels: one module per operation, named after it, with a function of the same name.

To add one, put ``<operation>.py`` in this folder; its function takes the same arguments as the reference in
``ldarnet/ops/<operation>.py``. Modules are registered by file name and imported on first use, because Triton ships
only with the CUDA build of torch.

None of these kernels has been run on a GPU yet. Tests compare them with their references under Triton's interpreter and
compile them for NVIDIA GPUs; ``auto`` verifies each one on the available GPU before using it.
"""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor

from ldarnet.ops.registry import operations, register

_INSTALL = "make setup TORCH=cuda"


def register_kernels() -> None:
    """Register every module of this folder that is named after an operation."""
    for name in sorted({module.name for module in iter_modules(__path__)} & set(operations())):
        register(name, "triton", devices=("cuda",), package="triton", install=_INSTALL)(_lazy_kernel(name))


def _lazy_kernel(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        function = getattr(import_module(f"{__name__}.{operation}"), operation)
        like = next(value for value in arguments if isinstance(value, Tensor))
        with torch.cuda.device_of(like):  # Triton launches on the current device
            return function(*arguments)

    return call


register_kernels()
