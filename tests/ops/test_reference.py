"""References: gradients, precision, determinism, memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from ldarnet.ops import resolve
from ldarnet.ops.verify import LOW_PRECISION_ARGUMENTS, example

LENGTHS = [90, 0, 1, 37, 200]


@pytest.fixture(params=["ssd", "ssd of any decays", "convolution", "gated_norm"])
def operation(request, monkeypatch):
    """Name of an operation whose rows are processed in several slabs."""
    if request.param == "ssd of any decays":
        monkeypatch.setattr("ldarnet.ops.scan_factored.MAX_LOG_DECAY", -1.0)
    monkeypatch.setattr("ldarnet.ops.slabs.SLAB_ELEMENTS", 64 * 64)
    monkeypatch.setattr("ldarnet.ops.slabs.MIN_ROWS", 1)
    return request.param.partition(" ")[0]


def reference(operation):
    return resolve(operation, "cpu", torch.float32, "torch").function


def leaves(operation, lengths=LENGTHS, width=32, dtype=torch.float32, low=torch.float32):
    def leaf(index, value):
        target = low if index in LOW_PRECISION_ARGUMENTS[operation] else dtype
        return value.detach().to(target).requires_grad_() if torch.is_tensor(value) else value

    return [leaf(index, value) for index, value in enumerate(example(operation, lengths, width=width))]


def results(function, arguments):
    out = function(*arguments)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    tensors = [value for value in arguments if torch.is_tensor(value)]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), tensors)]


def doubled(arguments):
    return [value.detach().double().requires_grad_() if torch.is_tensor(value) else value for value in arguments]


def saved_elements(function, arguments):
    """Number of elements saved for the backward pass, without the arguments, and number of output elements."""
    ours = {value.untyped_storage().data_ptr() for value in arguments if torch.is_tensor(value)}
    sizes = {}

    def pack(value):
        storage = value.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes() // value.itemsize
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        out = function(*arguments)
    return sum(size for pointer, size in sizes.items() if pointer not in ours), out.numel()


def test_gradients_agree_with_finite_differences(operation, monkeypatch):
    monkeypatch.setattr("ldarnet.ops.slabs.SLAB_ELEMENTS", 8)
    monkeypatch.setattr("ldarnet.ops.ssd.BLOCK", 2)
    arguments = leaves(operation, [5, 0, 2], width=2, dtype=torch.float64, low=torch.float64)
    assert torch.autograd.gradcheck(reference(operation), arguments)


@pytest.mark.parametrize(("low", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_only_inputs_and_outputs_are_rounded(operation, low, tolerance):
    arguments = leaves(operation, low=low)
    with torch.autocast("cpu", torch.bfloat16):
        actual = results(reference(operation), arguments)
    assert actual[0].dtype == low
    for ours, exact in zip(actual, results(reference(operation), doubled(arguments)), strict=True):
        assert (ours - exact).norm() <= tolerance * exact.norm()


def test_underflowing_decays_are_accurate():
    arguments = leaves("ssd")
    arguments[1] = torch.linspace(-9, 60, len(arguments[1]))[:, None].repeat(1, 2).requires_grad_()
    for ours, exact in zip(
        results(reference("ssd"), arguments), results(reference("ssd"), doubled(arguments)), strict=True
    ):
        assert (ours - exact).norm() <= 1e-4 * exact.norm()


def test_results_are_deterministic(operation):
    for first, second in zip(*(results(reference(operation), leaves(operation)) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


def test_activation_checkpointing_gives_the_same_gradients(operation):
    function, arguments = reference(operation), leaves(operation)
    checkpointed = results(lambda *values: checkpoint(function, *values, use_reentrant=False), arguments)
    for first, second in zip(results(function, arguments), checkpointed, strict=True):
        assert torch.equal(first, second)


def test_little_is_saved_for_the_backward_pass(operation):
    saved, outputs = saved_elements(reference(operation), leaves(operation))
    assert saved <= (3 * outputs if operation == "ssd" else 0)


class CountLaunches(TorchDispatchMode):
    """Count operations that would launch a kernel on a GPU."""

    def __init__(self):
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.launches += not operation.is_view and "empty" not in operation.name()
        return operation(*args, **(kwargs or {}))


def test_launches_of_the_scan_on_a_gpu_hardly_grow_with_the_length(monkeypatch):
    monkeypatch.setattr("ldarnet.ops.scan_states._visits_blocks_in_turn", lambda device: False)
    monkeypatch.setattr("ldarnet.ops.slabs.SLAB_ELEMENTS", 2**40)  # one slab, as on a GPU
    launches = []
    for length in (4096, 16384):
        arguments = leaves("ssd", [length], width=2)
        with CountLaunches() as count, torch.autograd.set_multithreading_enabled(False):
            results(reference("ssd"), arguments)
        launches.append(count.launches)
    assert launches[1] < 1.2 * launches[0]


@pytest.mark.parametrize("lengths", [[1100, 0, 1, 950, 37], [64 * 33], [64 * 32 + 1]], ids=str)
def test_groups_of_blocks_on_a_gpu_do_not_change_results(lengths, monkeypatch):
    arguments = leaves("ssd", lengths, width=3, dtype=torch.float64, low=torch.float64)
    in_turn = results(reference("ssd"), arguments)
    monkeypatch.setattr("ldarnet.ops.scan_states._visits_blocks_in_turn", lambda device: False)
    monkeypatch.setattr("ldarnet.ops.scan_states.GROUP", 3)
    monkeypatch.setattr("ldarnet.ops.slabs.SLAB_ELEMENTS", 2**40)
    for ours, exact in zip(results(reference("ssd"), arguments), in_turn, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
