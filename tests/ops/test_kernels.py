"""CUDA kernels against the float64 reference; needs a GPU and the packages."""

import pytest
import torch
from torch.nn import functional as F

from ldarnet.ops import Packing, backends, resolve

LENGTHS = [[1], [1000], [5, 64, 1, 200, 63]]
KERNELS = [backend for backend in backends() if backend.package]
BF16_TOLERANCE = 3e-2


def inputs(operation, lengths):
    torch.manual_seed(0)
    T = sum(lengths)

    def draw(*shape):
        return torch.randn(*shape, device="cuda").bfloat16().double()

    match operation:
        case "ssd":
            rates = -draw(2, 4).exp()
            return [draw(T, 2, 4, 64), F.softplus(draw(T, 2, 4)), rates, draw(T, 2, 64), draw(T, 2, 64), draw(2, 4)]
        case "convolution":
            return [draw(T, 64), draw(2, 64, 4), draw(2, 64)]
        case "attention":
            return [draw(T, 2, 64) for _ in range(3)]
    raise AssertionError(operation)


LAST = {"ssd": (64,), "convolution": (), "attention": (31,)}
KEPT_FP32 = {"ssd": {1, 2, 5}}


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k.operation}={k.name}")
def test_kernel_agrees_with_the_reference(kernel, lengths):
    if obstacle := kernel.obstacle("cuda" if torch.cuda.is_available() else "cpu"):
        pytest.skip(obstacle)
    packing = Packing.of_lengths(torch.tensor(lengths, device="cuda"), sum(lengths))
    exact = [x.requires_grad_() for x in inputs(kernel.operation, lengths)]
    low = [
        x.detach().to(torch.float32 if i in KEPT_FP32.get(kernel.operation, ()) else torch.bfloat16).requires_grad_()
        for i, x in enumerate(exact)
    ]
    wanted = resolve(kernel.operation, "cuda", "torch").function(*exact, packing, *LAST[kernel.operation])
    got = kernel.function(*low, packing, *LAST[kernel.operation])
    assert (got.double() - wanted).abs().max() <= BF16_TOLERANCE * wanted.abs().max()
    weight = torch.randn_like(wanted)
    for a, b in zip(
        torch.autograd.grad((got.double() * weight).sum(), low),
        torch.autograd.grad((wanted * weight).sum(), exact),
        strict=True,
    ):
        assert (a.double() - b).abs().max() <= BF16_TOLERANCE * b.abs().max()
