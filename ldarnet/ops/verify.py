"""Verification of backends: example inputs for each operation, and the maximum error against the reference.

The reference runs in float64 on the same (already rounded) inputs, so input rounding does not count as error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import REFERENCE, Backend, backends_of

TOLERANCES = {torch.float64: 1e-9, torch.float32: 5e-3, torch.bfloat16: 3e-2, torch.float16: 3e-2}
"""Maximum accepted error by dtype, relative to the largest reference value; the float32 tolerance allows for TF32."""

FP32_OPERATIONS = {"add_norm", "dechunk", "router"}
"""Operations whose main input (residual stream, chunks, queries) is at least float32 under autocast."""

LOW_PRECISION_ARGUMENTS = {
    "ssd": (0, 3, 4),
    "convolution": (0,),
    "dechunk": (0,),
    "attention": (0, 1, 2),
    "add_norm": (0,),
    "gated_norm": (0, 1),
    "swiglu": (0,),
    "rotary": (0,),
    "router": (),
}
"""Indices of arguments in the dtype of matrix products; other floating-point arguments are at least float32."""


def example(
    operation: str, lengths: Sequence[int], *, width: int = 64, device: str = "cpu", seed: int = 0
) -> list[Any]:
    """Random arguments of an operation: float64 tensors that require gradients.

    Args:
        operation: name of the operation, for example ``ssd``.
        lengths: length of each packed sequence, in chunks for ``dechunk`` and in positions otherwise.
        width: head dimension, state width and number of features.
        device: device of the tensors.
        seed: random seed.
    """
    generator = torch.Generator().manual_seed(seed)
    T = sum(lengths)
    packing = Packing.of_lengths(torch.tensor(lengths, device=device), T, max(lengths))

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu").to(device)

    arguments: list[Any]
    match operation:
        case "ssd":
            x, b, c, d = draw(T, 2, 2, width), draw(T, 2, width), draw(T, 2, width), draw(2, 2)
            arguments = [x, F.softplus(draw(T, 2, 2)), -draw(2, 2).exp(), b, c, d, packing, width]
        case "convolution":
            arguments = [draw(T, width), draw(2, width, 4), draw(2, width), packing]
        case "dechunk":
            chunk_of = torch.arange(T).repeat_interleave(torch.arange(T) % 3 + 1).to(device)
            bases = len(chunk_of)
            arguments = [
                draw(T, width),
                draw(T).sigmoid(),
                draw(bases).sigmoid(),
                draw(bases, width),
                packing,
                chunk_of,
            ]
        case "attention":
            arguments = [*(draw(T, 2, width) for _ in range(3)), packing, 31]
        case "add_norm":
            arguments = [draw(T, width), draw(T, width), draw(width), torch.float64]
        case "gated_norm":
            arguments = [draw(T, 2, width), draw(T, width), draw(2, width)]
        case "swiglu":
            arguments = [draw(T, 2 * width)]
        case "rotary":
            arguments = [draw(T, 3 * 2 * width), packing, 2, max(2, width // 4 * 2)]
        case "router":
            arguments = [draw(T, width), draw(T, width), packing]
        case _:
            raise AssertionError(f"no example for operation {operation!r}; add one")
    return [value.requires_grad_() if _is_float_tensor(value) else value for value in arguments]


def max_error(
    backend: Backend, device: str, dtype: torch.dtype, lengths: Sequence[int], *, width: int = 64, seed: int = 0
) -> float:
    """Maximum error over a backend's outputs and gradients.

    The error of each tensor is relative to the largest absolute value of the reference tensor.

    Args:
        backend: backend to verify.
        device: torch device type to run on.
        dtype: dtype of the arguments listed in :data:`LOW_PRECISION_ARGUMENTS`. The other floating-point arguments are
            float32, or float64 if ``dtype`` is float64.
        lengths: length of each packed sequence.
        width: see :func:`example`.
        seed: random seed.
    """
    with _isolated(device):
        drawn = example(backend.operation, lengths, width=width, device=device, seed=seed)
        full_dtype = torch.promote_types(dtype, torch.float32)
        given = []
        for index, value in enumerate(drawn):
            target = dtype if index in LOW_PRECISION_ARGUMENTS[backend.operation] else full_dtype
            given.append(value.detach().to(target).requires_grad_() if _is_float_tensor(value) else value)
        exact = [value.detach().double().requires_grad_() if _is_float_tensor(value) else value for value in given]
        if backend.operation == "add_norm":
            given[-1] = dtype
        actual = _results(backend, given, seed)
        expected = _results(backends_of(backend.operation)[REFERENCE], exact, seed)
        errors = [_error(a, b) for a, b in zip(actual, expected, strict=True)]
        return torch.stack(errors).max().item()


@contextmanager
def _isolated(device: str) -> Iterator[None]:
    """Isolate the check from the caller's autograd state (grad mode, autocast, activation checkpointing)."""
    save_as_is = torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False), save_as_is:
        yield


def _results(backend: Backend, arguments: list[Any], seed: int) -> list[Tensor]:
    """Return the detached outputs, then the gradients of a fixed weighted sum of the outputs."""
    outputs = backend.function(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(seed + 1)
    # Multiples of 1/8 are exact in every dtype.
    weights = [torch.randint(-16, 17, y.shape, generator=generator, device="cpu").to(y) / 8 for y in outputs]
    inputs = [value for value in arguments if _is_float_tensor(value)]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, inputs, weights)]


def _error(actual: Tensor, expected: Tensor) -> Tensor:
    # Example values are of order 1; without the clamp, rounding errors would count as large if the exact result is 0.
    return (actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-3)


def _is_float_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
