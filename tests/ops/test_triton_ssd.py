"""The Triton scan against its float64 reference, beyond what test_triton.py checks for every kernel."""

import pytest
import torch

from ldarnet.errors import UserError
from ldarnet.ops import Packing, ScanGradients, backends_of
from ldarnet.ops.verify import Sizes, example, max_error

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


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [[33], [3, 70, 0, 40], [16, 32, 64]], ids=str)
def test_sequences_of_several_segments(lengths, directions, monkeypatch):
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.SEGMENT", 32)  # two blocks
    sizes = Sizes.uniform(3)._replace(directions=directions)
    assert_matches_the_reference(example("ssd", lengths, sizes=sizes, device=DEVICE))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("segment", [32, 4096])
def test_states_that_the_forward_pass_saves(segment, directions, monkeypatch):
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.SEGMENT", segment)
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.SAVES_STATES", (torch.float64,))
    sizes = Sizes.uniform(3)._replace(directions=directions)
    assert_matches_the_reference(example("ssd", [33, 0, 40], sizes=sizes, device=DEVICE))


@pytest.mark.parametrize("directions", [1, 2])
def test_heads_and_states_split_over_programs(directions, monkeypatch):
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.COLUMNS", 16)
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.STATE_BYTES", 1)  # tiles of 16 columns of N
    sizes = Sizes.uniform(21)._replace(directions=directions)
    assert max_error(KERNEL, DEVICE, torch.float64, [5, 20], sizes=sizes) < 1e-9


def test_number_of_heads_that_is_not_a_power_of_two(monkeypatch):
    monkeypatch.setattr("ldarnet.ops.kernels.ssd.STEP_ELEMENTS", 16)  # several programs, with masked heads
    x, dt, bias, a, b, c, d, *rest = example("ssd", [9, 20], width=4, device=DEVICE)
    x, dt, bias, a, d = (
        torch.cat([value, value.narrow(dim, 0, 1) / 2], dim).detach().requires_grad_()
        for value, dim in ((x, 2), (dt, 1), (bias, 1), (a, 1), (d, 1))
    )
    assert_matches_the_reference([x, dt, bias, a, b, c, d, *rest])


def test_head_dimension_and_state_width_may_differ():
    *start, _, _, d, packing, chunk_size = example("ssd", [18, 7], width=5, device=DEVICE)
    b, c = (torch.randn(25, 2, 19, dtype=torch.float64, device=DEVICE, requires_grad=True) for _ in range(2))
    assert_matches_the_reference([*start, b, c, d, packing, chunk_size])


def test_slices_of_one_tensor():
    _, dt, bias, a, *_, d, packing, chunk_size = example("ssd", [18, 7], width=6, device=DEVICE)
    wide = torch.randn(25, 2, 12 + 6 + 6, dtype=torch.float64, device=DEVICE, requires_grad=True)

    def split(function):
        def call(wide, *arguments):
            x, b, c = wide.split([12, 6, 6], -1)
            return function(x.unflatten(-1, (2, 6)), *arguments[:3], b, c, *arguments[3:])

        return call

    arguments = [wide, dt, bias, a, d, packing, chunk_size]
    ours, expected = (outputs_and_gradients(split(kernel.function), arguments) for kernel in (KERNEL, REFERENCE))
    for actual, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-9, atol=1e-9)


def test_float16():
    assert max_error(KERNEL, DEVICE, torch.float16, [3, 0, 70], width=20) < 5e-3


def test_underflowing_and_slow_decays_are_accurate():
    x, dt, *others = example("ssd", [50, 20], width=3, device=DEVICE)
    scale = torch.linspace(-14, 2000, len(dt), dtype=dt.dtype, device=DEVICE)
    assert_matches_the_reference([x, (dt + scale[:, None]).detach().requires_grad_(), *others])


def test_results_of_a_sequence_do_not_depend_on_its_neighbors():
    lengths = [23, 1, 40]
    x, dt, bias, a, b, c, d, *_ = example("ssd", lengths, width=4, device=DEVICE)
    packing = Packing.of_lengths(torch.tensor(lengths, device=DEVICE), sum(lengths))
    rows = [value.detach().float() for value in (x, dt, b, c)]
    bias, a, d = (value.detach().float() for value in (bias, a, d))

    def run(rows, packing):
        x, dt, b, c = (value.clone().requires_grad_() for value in rows)
        y = KERNEL.function(x, dt, bias, a, b, c, d, packing, 64)
        return [y, *torch.autograd.grad(y, [x, dt, b, c], y.detach())]

    together = run(rows, packing)
    for i, length in enumerate(lengths):
        own = slice(sum(lengths[:i]), sum(lengths[: i + 1]))
        alone = run([value[own] for value in rows], Packing.of_lengths(torch.tensor([length], device=DEVICE), length))
        for packed, single in zip(together, alone, strict=True):
            assert torch.equal(packed[own], single)


def saved_for_the_backward_pass(arguments):
    """Tensors that are saved besides the arguments."""
    known = {value.data_ptr() for value in arguments if torch.is_tensor(value)}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        KERNEL.function(*arguments)
    return [value for value in saved if value.data_ptr() not in known]


def test_wide_dtypes_save_only_their_arguments_for_the_backward_pass():
    assert saved_for_the_backward_pass(example("ssd", [40], width=8, device=DEVICE)) == []


def test_bfloat16_saves_scores_and_one_state_per_block_for_the_backward_pass():
    arguments = example("ssd", [130], width=8, device=DEVICE)
    arguments = [
        value.detach().bfloat16().requires_grad_() if torch.is_tensor(value) and number in (0, 4, 5) else value
        for number, value in enumerate(arguments)
    ]
    scores, states = saved_for_the_backward_pass(arguments)
    assert scores.shape == (3, 2, 64, 64) and states.shape == (3, 2, 2, 8, 8)
    assert states.dtype == torch.bfloat16
    with torch.no_grad():
        assert saved_for_the_backward_pass(arguments) == []


def test_gradients_are_written_into_the_given_memory():
    x, dt, *_, b, c, _, _, _ = arguments = example("ssd", [5, 3], width=4, device=DEVICE)
    memory = [
        torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE) for value in (x, dt, b, c)
    ]
    y = KERNEL.function(*arguments, ScanGradients(*(lambda value=value: value for value in memory)))
    gradients = torch.autograd.grad(y, [x, dt, b, c], torch.ones_like(y))
    expected = torch.autograd.grad(REFERENCE.function(*arguments), [x, dt, b, c], torch.ones_like(y))
    for gradient, written, exact in zip(gradients, memory, expected, strict=True):
        assert gradient.data_ptr() == written.data_ptr()
        torch.testing.assert_close(gradient, exact, rtol=1e-9, atol=1e-9)


def test_step_sizes_of_any_magnitude_in_float32():
    x, _, *others = example("ssd", [60], width=3, device=DEVICE)
    dt = torch.linspace(-90, 3, 60, device=DEVICE)[:, None].repeat(1, 2)
    arguments = [x, dt, torch.zeros_like(others[0]), *others[1:]]
    single = [value.detach().float() if torch.is_tensor(value) else value for value in arguments]
    exact = REFERENCE.function(*(value.double() if torch.is_tensor(value) else value for value in single))
    torch.testing.assert_close(KERNEL.function(*single).double(), exact, rtol=1e-5, atol=1e-5)


def test_equal_chunks_are_assigned_once_for_all_layers():
    x, *others, packing, chunk_size = example("ssd", [40], width=4, device=DEVICE)
    KERNEL.function(x, *others, packing, chunk_size)
    before = dict(packing.derived)
    KERNEL.function(x, *others, packing, chunk_size)
    assert before and all(packing.derived[name] is value for name, value in before.items())


def test_widths_beyond_the_largest_tile_are_rejected():
    arguments = example("ssd", [2], width=300, device=DEVICE)
    with pytest.raises(UserError, match=r"ops\.ssd=triton: headdim 300 .*; set ops\.ssd=torch"):
        KERNEL.function(*arguments)
