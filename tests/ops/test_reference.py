"""What the plain PyTorch operations promise besides their results: gradients, precision, repeatability, memory."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ldarnet.ops import resolve
from ldarnet.ops.verify import LOW_PRECISION_ARGUMENTS, example

LENGTHS = [90, 0, 1, 37, 200]


@pytest.fixture(params=["ssd", "convolution", "gated_norm"])
def operation(request, monkeypatch):
    """Its name; rows are cut into several slabs."""
    monkeypatch.setattr("ldarnet.ops.slabs.SLAB_ELEMENTS", 64 * 64)
    monkeypatch.setattr("ldarnet.ops.slabs.MIN_ROWS", 1)
    return request.param


def reference(operation):
    return resolve(operation, "cpu", torch.float32, "torch").function


def leaves(operation, lengths=LENGTHS, width=32, dtype=torch.float32, low=torch.float32):
    def leaf(place, value):
        target = low if place in LOW_PRECISION_ARGUMENTS[operation] else dtype
        return value.detach().to(target).requires_grad_() if torch.is_tensor(value) else value

    return [leaf(place, value) for place, value in enumerate(example(operation, lengths, width=width))]


def results(function, arguments):
    out = function(*arguments)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    tensors = [value for value in arguments if torch.is_tensor(value)]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), tensors)]


def doubled(arguments):
    return [value.detach().double().requires_grad_() if torch.is_tensor(value) else value for value in arguments]


def kept(function, arguments):
    """Numbers kept for the backward pass, the arguments aside."""
    ours = {value.untyped_storage().data_ptr() for value in arguments if torch.is_tensor(value)}
    sizes = {}

    def pack(value):
        storage = value.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes() // value.itemsize
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = function(*arguments)
    return sum(size for place, size in sizes.items() if place not in ours), out.numel()


def test_gradients_agree_with_finite_differences(operation, monkeypatch):
    monkeypatch.setattr("ldarnet.ops.slabs.SLAB_ELEMENTS", 8)
    monkeypatch.setattr("ldarnet.ops.ssd.BLOCK", 2)
    arguments = leaves(operation, [5, 0, 2], width=2, dtype=torch.float64, low=torch.float64)
    assert torch.autograd.gradcheck(reference(operation), arguments)


@pytest.mark.parametrize(("low", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_only_arguments_and_results_are_rounded(operation, low, tolerance):
    arguments = leaves(operation, low=low)
    with torch.autocast("cpu", torch.bfloat16):
        got = results(reference(operation), arguments)
    assert got[0].dtype == low
    for ours, wanted in zip(got, results(reference(operation), doubled(arguments)), strict=True):
        assert (ours - wanted).norm() <= tolerance * wanted.norm()


def test_decays_too_strong_for_the_number_format_do_no_harm():
    arguments = leaves("ssd")
    steps = torch.linspace(0, 300, len(arguments[1]))[:, None, None]
    arguments[1] = (arguments[1] * steps).detach().requires_grad_()
    for ours, wanted in zip(
        results(reference("ssd"), arguments), results(reference("ssd"), doubled(arguments)), strict=True
    ):
        assert (ours - wanted).norm() <= 1e-5 * wanted.norm()


def test_results_repeat_bit_for_bit(operation):
    for first, second in zip(*(results(reference(operation), leaves(operation)) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


def test_recomputation_gives_the_same_gradients(operation):
    function, arguments = reference(operation), leaves(operation)
    again = results(lambda *values: checkpoint(function, *values, use_reentrant=False), arguments)
    for first, second in zip(results(function, arguments), again, strict=True):
        assert torch.equal(first, second)


def test_little_is_kept_for_the_backward_pass(operation):
    numbers, results = kept(reference(operation), leaves(operation))
    assert numbers <= (3 * results if operation == "ssd" else 0)
