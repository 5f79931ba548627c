"""Verification of backends: example inputs for each operation, and the maximum error against the reference.

The reference runs in float64 on the same (already rounded) inputs, so input rounding does not count as error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ldarnet.ops.packing import Packing
from ldarnet.ops.registry import REFERENCE, Backend, backends_of

TOLERANCES = {torch.float64: 1e-9, torch.float32: 5e-3, torch.bfloat16: 3e-2, torch.float16: 3e-2}
"""Maximum accepted error by dtype, relative to the largest reference value; the float32 tolerance allows for TF32."""

FP32_OPERATIONS = {"add_norm", "dechunk", "router"}
"""Operations whose main input (residual stream, chunks, queries) is at least float32 under autocast."""

LOW_PRECISION_ARGUMENTS = {
    "ssd": (0, 1, 4, 5),
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


class Sizes(NamedTuple):
    """Sizes of the tensors in one stage of a model.

    Attributes:
        width: columns of the residual stream.
        projection: columns of BiMamba-2's input projection, whose slices are inputs of convolution and gated_norm.
        channels: channels of the convolution.
        taps: taps of the convolution.
        inner: columns of gated_norm.
        heads: heads of the scan.
        headdim: head dimension of the scan.
        d_state: state width of the scan.
        chunk_size: block size of the scan.
        hidden: hidden width of the MLP.
        attention_heads: heads of attention.
        attention_dim: head dimension of attention.
        rotary: rotated features per attention head.
        window: visible positions on each side; -1 for no limit.
        directions: 2, or 1 if positions do not see those to their right.
    """

    width: int
    projection: int
    channels: int
    taps: int
    inner: int
    heads: int
    headdim: int
    d_state: int
    chunk_size: int
    hidden: int
    attention_heads: int
    attention_dim: int
    rotary: int
    window: int
    directions: int = 2

    @classmethod
    def uniform(cls, width: int) -> "Sizes":
        """Sizes with two heads, and the same head dimension, state width and number of features."""
        rotary = max(2, width // 4 * 2)
        return cls(width, width, width, 4, width, 2, width, width, width, width, 2, width, rotary, 31)

    def of(self, operation: str) -> dict[str, int]:
        """Sizes that the example of an operation depends on, by name."""
        return {name: getattr(self, name) for name in _SIZES_OF[operation]}


_SIZES_OF = {
    "ssd": ("heads", "headdim", "d_state", "projection", "chunk_size", "directions"),
    "convolution": ("channels", "taps", "projection", "directions"),
    "dechunk": ("width", "directions"),
    "attention": ("attention_heads", "attention_dim", "window", "directions"),
    "add_norm": ("width",),
    "gated_norm": ("inner", "projection", "directions"),
    "swiglu": ("hidden",),
    "rotary": ("attention_heads", "attention_dim", "rotary"),
    "router": ("width",),
}

DEFAULT_SIZES = Sizes(
    width=512,
    projection=2320,
    channels=1280,
    taps=4,
    inner=1024,
    heads=16,
    headdim=64,
    d_state=128,
    chunk_size=256,
    hidden=2560,
    attention_heads=16,
    attention_dim=32,
    rotary=32,
    window=1023,
)
"""Sizes of the outermost stage of ldarnet-110m, and of the MLP in its main network."""


def example(
    operation: str,
    lengths: Sequence[int],
    *,
    width: int = 64,
    sizes: Sizes | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> list[Any]:
    """Random arguments of an operation: float64 tensors that require gradients, with the strides of a model's tensors.

    Args:
        operation: name of the operation, for example ``ssd``.
        lengths: length of each packed sequence, in chunks for ``dechunk`` and in positions otherwise.
        width: head dimension, state width and number of features, unless ``sizes`` is given.
        sizes: sizes of the tensors.
        device: device of the tensors.
        seed: random seed.
    """
    sizes = sizes or Sizes.uniform(width)
    generator = torch.Generator().manual_seed(seed)
    T, K = sum(lengths), sizes.directions
    packing = Packing.of_lengths(torch.tensor(lengths, device=device), T, max(lengths))

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu").to(device)

    arguments: list[Any]
    match operation:
        case "ssd":
            H, P, N = sizes.heads, sizes.headdim, sizes.d_state
            xbc, d = torch.cat([draw(T, K, columns) for columns in (H * P, N, N)], dim=-1), draw(K, H)
            x, b, c = xbc.split([H * P, N, N], dim=-1)
            x, dt = x.unflatten(-1, (H, P)), draw(T, sizes.projection)[:, -H:]
            arguments = [x, dt, draw(K, H), draw(K, H), b, c, d, packing, sizes.chunk_size]
        case "convolution":
            x, C = draw(T, sizes.projection)[:, : sizes.channels], sizes.channels
            arguments = [x, draw(K, C, sizes.taps), draw(K, C), packing]
        case "dechunk":
            D, chunk_of = sizes.width, torch.arange(T).repeat_interleave(torch.arange(T) % 3 + 1).to(device)
            bases = len(chunk_of)
            confidence, residual = draw(bases).sigmoid(), draw(bases, D)
            probability = draw(T).sigmoid() if K == 2 else draw(1, T).sigmoid()
            arguments = [draw(T, D), probability, confidence, residual, packing, chunk_of]
        case "attention":
            q, k, v = draw(T, 3, sizes.attention_heads, sizes.attention_dim).unbind(1)
            arguments = [q, k, v, packing, sizes.window, *([True] if K == 1 else [])]
        case "add_norm":
            arguments = [draw(T, sizes.width), draw(T, sizes.width), draw(sizes.width), torch.float64]
        case "gated_norm":
            E = sizes.inner
            arguments = [draw(T, K, E), draw(T, sizes.projection)[:, :E], draw(K, E)]
        case "swiglu":
            arguments = [draw(T, 2 * sizes.hidden)]
        case "rotary":
            H, P = sizes.attention_heads, sizes.attention_dim
            arguments = [draw(T, 3 * H * P), packing, H, sizes.rotary]
        case "router":
            arguments = [draw(T, sizes.width), draw(T, sizes.width), packing]
        case _:
            raise AssertionError(f"no example for operation {operation!r}; add one")
    return [value.requires_grad_() if _is_float_tensor(value) else value for value in arguments]


def max_error(
    backend: Backend,
    device: str,
    dtype: torch.dtype,
    lengths: Sequence[int],
    *,
    width: int = 64,
    sizes: Sizes | None = None,
    seed: int = 0,
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
        sizes: see :func:`example`.
        seed: random seed.
    """
    with _isolated(device):
        drawn = example(backend.operation, lengths, width=width, sizes=sizes, device=device, seed=seed)
        full_dtype = torch.promote_types(dtype, torch.float32)
        given = []
        for index, value in enumerate(drawn):
            target = dtype if index in LOW_PRECISION_ARGUMENTS[backend.operation] else full_dtype
            given.append(_cast(value, target) if _is_float_tensor(value) else value)
        exact = [_cast(value, torch.float64) if _is_float_tensor(value) else value for value in given]
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


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Copy a tensor to another dtype, with the same strides; the copy requires gradients."""
    copy = torch.empty_strided(value.shape, value.stride(), dtype=dtype, device=value.device)
    return copy.copy_(value.detach()).requires_grad_()


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
