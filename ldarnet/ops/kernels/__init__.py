"""Our own kernels, written in Triton: one file for each operation, with the operation's name.

A file is imported when its operation is first called, since Triton comes only with the CUDA build of torch. None has
been run on a GPU yet: without one, tests compare them with their references under Triton's interpreter and compile them
for a Hopper GPU, and ``auto`` tries each one on the GPU at hand before it is used.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ldarnet.ops.registry import register

_INSTALL = "make setup TORCH=cuda"


def _imported_when_called(operation: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        function = getattr(import_module(f"{__name__}.{operation}"), operation)
        like = next(value for value in arguments if isinstance(value, Tensor))
        with torch.cuda.device_of(like):  # Triton launches on the current device
            return function(*arguments)

    return call


for _operation in ("convolution", "dechunk", "add_norm", "gated_norm", "swiglu"):
    register(_operation, "triton", devices=("cuda",), package="triton", install=_INSTALL)(
        _imported_when_called(_operation)
    )
