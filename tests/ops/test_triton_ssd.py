"""The Triton scan against its float64 reference, beyond what test_triton.py checks for every kernel."""

import pytest
import torch

from ldarnet.errors import UserError
from ldarnet.ops import Packing, backends_of
from ldarnet.ops.verify import example, max_error

pytest.importorskip("triton", reason="needs Triton: pip install triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNEL, REFERENCE = (backends_of("ssd")[name] for name in ("triton", "torch"))


def outputs_and_gradients(function, arguments):
    y = function(*arguments)
    weight = torch.linspace(-1, 1, y.numel(), device=DEVICE).to(y).view_as(y)
    inputs = [value for value in arguments if torch.is_tensor(value)]
    return [y, *torch.autograd.grad(y, inputs, weight)]


def assert_matches_the_reference(arguments):
    ours, expected = (outputs_and_gradients(kernel.function, arguments) for kernel in (KERNEL, REFERENCE))
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 24, 64])
def test_chunks_of_one_and_several_tiles(chunk_size):
    *tensors, packing, _ = example("ssd", [3, 70, 0, 40], width=3, device=DEVICE)
    assert_matches_the_reference([*tensors, packing, chunk_size])


def test_heads_and_states_split_over_programs(monkeypatch):
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.HEADS", 1)
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.COLUMNS", {"P": 16, "N": 16})
    assert max_error(KERNEL, DEVICE, torch.float64, [5, 20], width=21) < 1e-9


def test_groups_of_unequal_numbers_of_heads(monkeypatch):
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.HEADS", 2)
    x, dt, a, b, c, d, packing, chunk_size = example("ssd", [9, 20], width=4, device=DEVICE)
    x, dt, a, d = (
        torch.cat([value, value.narrow(dim, 0, 1) / 2], dim).detach().requires_grad_()
        for value, dim in ((x, 2), (dt, 2), (a, 1), (d, 1))
    )
    assert_matches_the_reference([x, dt, a, b, c, d, packing, chunk_size])


def test_head_dimension_and_state_width_may_differ():
    x, dt, a, _, _, d, packing, chunk_size = example("ssd", [18, 7], width=5, device=DEVICE)
    b, c = (torch.randn(25, 2, 19, dtype=torch.float64, device=DEVICE, requires_grad=True) for _ in range(2))
    assert_matches_the_reference([x, dt, a, b, c, d, packing, chunk_size])


def test_slices_of_one_tensor():
    _, dt, a, *_, d, packing, chunk_size = example("ssd", [18, 7], width=6, device=DEVICE)
    wide = torch.randn(25, 2, 12 + 6 + 6, dtype=torch.float64, device=DEVICE, requires_grad=True)

    def split(function):
        def call(wide, *arguments):
            x, b, c = wide.split([12, 6, 6], -1)
            return function(x.unflatten(-1, (2, 6)), *arguments[:2], b, c, *arguments[2:])

        return call

    arguments = [wide, dt, a, d, packing, chunk_size]
    ours, expected = (outputs_and_gradients(split(kernel.function), arguments) for kernel in (KERNEL, REFERENCE))
    for actual, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-9, atol=1e-9)


def test_float16():
    assert max_error(KERNEL, DEVICE, torch.float16, [3, 0, 70], width=20) < 5e-3


def test_underflowing_and_slow_decays_are_accurate():
    x, dt, a, b, c, d, packing, chunk_size = example("ssd", [50, 20], width=3, device=DEVICE)
    dt = (dt * torch.logspace(-6, 4, len(dt), dtype=dt.dtype, device=DEVICE)[:, None, None]).detach().requires_grad_()
    assert_matches_the_reference([x, dt, a, b, c, d, packing, chunk_size])


def test_results_of_a_sequence_do_not_depend_on_its_neighbors():
    lengths = [23, 1, 40]
    x, dt, a, b, c, d, packing, _ = example("ssd", lengths, width=4, device=DEVICE)
    rows = [value.detach().float() for value in (x, dt, b, c)]
    a, d = a.detach().float(), d.detach().float()

    def run(rows, packing):
        x, dt, b, c = (value.clone().requires_grad_() for value in rows)
        y = KERNEL.function(x, dt, a, b, c, d, packing, 64)
        return [y, *torch.autograd.grad(y, [x, dt, b, c], y.detach())]

    together = run(rows, packing)
    for i, length in enumerate(lengths):
        own = slice(sum(lengths[:i]), sum(lengths[: i + 1]))
        alone = run([value[own] for value in rows], Packing.of_lengths(torch.tensor([length], device=DEVICE), length))
        for packed, single in zip(together, alone, strict=True):
            assert torch.equal(packed[own], single)


def test_saves_only_its_arguments_for_the_backward_pass():
    arguments = example("ssd", [40], width=8, device=DEVICE)
    known = {value.data_ptr() for value in arguments if torch.is_tensor(value)}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        KERNEL.function(*arguments)
    assert len(saved) == 7
    assert all(value.data_ptr() in known or value is arguments[6].starts for value in saved)


def test_widths_beyond_the_largest_tile_are_rejected():
    arguments = example("ssd", [2], width=300, device=DEVICE)
    with pytest.raises(UserError, match=r"ops\.ssd=triton: headdim 300 .*; set ops\.ssd=torch"):
        KERNEL.function(*arguments)
