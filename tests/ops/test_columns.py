"""Column slices with one gradient buffer."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.ops import Packing, split_columns
from ldarnet.ops.columns import gradient_memory

WIDTHS = [2, 4, 3]


class Scale(torch.autograd.Function):
    """Product with a number; writes its gradient into the given memory."""

    written = []

    @staticmethod
    def forward(ctx, x, number, buffer):
        ctx.save_for_backward(x)
        ctx.number, ctx.buffer = number, buffer
        return x * number

    @staticmethod
    def backward(ctx, d):
        (x,) = ctx.saved_tensors
        memory = gradient_memory(x, ctx.buffer)
        Scale.written.append(memory.data_ptr())
        return torch.mul(d, ctx.number, out=memory), None, None


@pytest.fixture
def value():
    Scale.written.clear()
    return torch.randn(5, sum(WIDTHS), dtype=torch.float64, requires_grad=True)


def expected_gradient(*numbers):
    return torch.cat([torch.full((5, width), float(n)) for n, width in zip(numbers, WIDTHS, strict=True)], 1).double()


def test_operations_write_into_one_gradient(value):
    slices, buffers = split_columns(value, WIDTHS)
    y = sum(Scale.apply(x, i + 1, buffer).sum() for i, (x, buffer) in enumerate(zip(slices, buffers, strict=True)))
    (gradient,) = torch.autograd.grad(y, value)
    assert torch.equal(gradient, expected_gradient(1, 2, 3))
    slices = gradient.split(WIDTHS, 1)
    assert sorted(Scale.written) == [x.data_ptr() for x in slices]


def test_operations_without_a_buffer_and_unused_slices(value):
    (a, b, _), (buffer, _, _) = split_columns(value, WIDTHS)
    reshaped = Scale.apply(b.unflatten(1, (2, 2)), 7, None)
    (gradient,) = torch.autograd.grad(Scale.apply(a, 5, buffer).sum() + reshaped.sum(), value)
    assert torch.equal(gradient, expected_gradient(5, 7, 0))


def test_a_second_backward_pass_does_not_overwrite_the_first_gradient(value):
    slices, buffers = split_columns(value, WIDTHS)
    y = Scale.apply(slices[0], 2, buffers[0])
    first, second = (torch.autograd.grad(y, value, torch.full_like(y, n), retain_graph=True)[0] for n in (1, 10))
    assert torch.equal(first, expected_gradient(2, 0, 0)) and torch.equal(second, 10 * first)


def test_memory_has_the_strides_of_the_value():
    wide = torch.zeros(5, 9)
    assert gradient_memory(wide[:, 2:4], None).stride() == (9, 1)
    own = gradient_memory(wide[:, 2:4], lambda: torch.zeros(5, 2))  # strides differ from those of the slice
    assert own.stride() == (9, 1)
    assert gradient_memory(torch.zeros(1, 3).expand(5, 3), None).stride() == (3, 1)
    assert gradient_memory(wide.bfloat16(), lambda: wide).dtype == torch.bfloat16


def test_gradients_of_a_mixer_are_not_concatenated():
    config = LDARNetConfig.preset("tiny")
    torch.manual_seed(0)
    mixer = BiMamba2(config, 0)
    mixer.initialize()
    x, packing = torch.randn(70, config.d_model[0]), Packing.of_lengths(torch.tensor([50, 20]), 70)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        mixer(x.requires_grad_(), packing).square().mean().backward()
    concatenating = {"SplitWithSizesBackward0", "SplitBackward0", "SliceBackward0", "NarrowBackward0"}
    assert not concatenating & {event.key for event in profile.key_averages()}
    gradients = [x.grad, *(parameter.grad for parameter in mixer.parameters())]
    again = x.detach().requires_grad_()
    mixer.zero_grad()
    checkpoint(mixer, again, packing, use_reentrant=False).square().mean().backward()
    repeated = [again.grad, *(parameter.grad for parameter in mixer.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(gradients, repeated, strict=True))


class Restrided(torch.autograd.Function):
    """Identity whose gradient is the given memory, with another stride in a dimension of size 1."""

    @staticmethod
    def forward(ctx, x, buffer):
        ctx.save_for_backward(x)
        ctx.buffer = buffer
        return x.clone()

    @staticmethod
    def backward(ctx, d):
        memory = gradient_memory(*ctx.saved_tensors, ctx.buffer).copy_(d)
        Scale.written.append(memory.data_ptr())
        return memory.as_strided(memory.shape, (memory.stride(0), 1, 1)), None


def test_strides_of_dimensions_of_size_one_have_no_meaning():
    Scale.written.clear()
    value = torch.randn(5, 1, sum(WIDTHS), dtype=torch.float64, requires_grad=True)
    (a, *_), (buffer, *_) = split_columns(value, WIDTHS)
    (gradient,) = torch.autograd.grad((Restrided.apply(a, buffer) * 3).sum(), value)
    assert torch.equal(gradient[:, 0], expected_gradient(3, 0, 0))
    assert Scale.written == [gradient.data_ptr()]
