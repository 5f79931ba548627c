"""Is a backend right? Example inputs of every operation, and how far a backend's results are from the reference's.

The reference is run in float64 on the very numbers that the backend gets, so rounding of the inputs does not count.
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
"""Largest error that is accepted, relative to the largest value; float32 leaves room for products in TF32."""

FP32_OPERATIONS = {"add_norm", "dechunk"}
"""Operations whose main input, the residual stream or the chunks, is at least float32 under autocast."""

LOW_PRECISION_ARGUMENTS = {
    "ssd": (0, 3, 4),
    "convolution": (0,),
    "dechunk": (0,),
    "attention": (0, 1, 2),
    "add_norm": (0,),
    "gated_norm": (0, 1),
    "swiglu": (0,),
}
"""Which arguments come in the dtype of the matrix products; the other floating-point ones are never below float32."""


def example(
    operation: str, lengths: Sequence[int], *, width: int = 64, device: str = "cpu", seed: int = 0
) -> list[Any]:
    """Arguments of an operation for packed sequences of these lengths; tensors are float64 and take gradients.

    Args:
        operation: its name.
        lengths: positions of each sequence; of the chunks' sequences for ``dechunk``.
        width: of heads, states and features.
        device: where the tensors lie.
        seed: of the random numbers.
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
        case _:
            raise AssertionError(f"no example of {operation}")
    return [value.requires_grad_() if _takes_gradients(value) else value for value in arguments]


def max_error(
    backend: Backend, device: str, dtype: torch.dtype, lengths: Sequence[int], *, width: int = 64, seed: int = 0
) -> float:
    """Largest error of a backend's outputs and gradients, each relative to the reference's largest value.

    Args:
        backend: what is tried.
        device: where it runs.
        dtype: of the arguments that :data:`LOW_PRECISION_ARGUMENTS` names; float64 is kept in all of them.
        lengths: positions of each packed sequence.
        width: as in :func:`example`.
        seed: of the random numbers.
    """
    with _apart(device):
        drawn = example(backend.operation, lengths, width=width, device=device, seed=seed)
        exact_dtype = torch.promote_types(dtype, torch.float32)
        given = []
        for place, value in enumerate(drawn):
            target = dtype if place in LOW_PRECISION_ARGUMENTS[backend.operation] else exact_dtype
            given.append(value.detach().to(target).requires_grad_() if _takes_gradients(value) else value)
        exact = [value.detach().double().requires_grad_() if _takes_gradients(value) else value for value in given]
        if backend.operation == "add_norm":
            given[-1] = dtype
        got = _results(backend, given, seed)
        wanted = _results(backends_of(backend.operation)[REFERENCE], exact, seed)
        errors = [_error(a, b) for a, b in zip(got, wanted, strict=True)]
        return torch.stack(errors).max().item()


@contextmanager
def _apart(device: str) -> Iterator[None]:
    """Not touched by what the caller is in the middle of: no gradients, autocast, or a checkpoint's saved tensors."""
    as_it_is = torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False), as_it_is:
        yield


def _results(backend: Backend, arguments: list[Any], seed: int) -> list[Tensor]:
    """Outputs, and the gradients of a fixed weighted sum of them."""
    outputs = backend.function(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    generator = torch.Generator().manual_seed(seed + 1)
    # Eighths, since every dtype holds them exactly.
    weights = [torch.randint(-16, 17, y.shape, generator=generator, device="cpu").to(y) / 8 for y in outputs]
    inputs = [value for value in arguments if _takes_gradients(value)]
    return [*(y.detach() for y in outputs), *torch.autograd.grad(outputs, inputs, weights)]


def _error(got: Tensor, wanted: Tensor) -> Tensor:
    # The examples' values are of order one; where all are far below, as where a gradient is 0, rounding is left.
    return (got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3)


def _takes_gradients(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
