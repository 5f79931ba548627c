"""Triton kernels against the float64 references: compiled on a GPU, otherwise under Triton's interpreter."""

from importlib import import_module

import pytest
import torch

from ldarnet.ops import Packing, backends_of, operations
from ldarnet.ops.verify import Sizes, example, max_error

pytest.importorskip("triton", reason="needs Triton: pip install triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = [[1], [7], [1, 1, 1], [130], [3, 0, 70], [5, 64, 1, 200, 63]]
KERNELS = {name: backends_of(name)["triton"] for name in operations() if "triton" in backends_of(name)}
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


DIRECTED = [name for name in KERNELS if "directions" in Sizes.uniform(2).of(name)]
"""Operations whose kernels run in one or two directions."""


def packing_of(lengths):
    return Packing.of_lengths(torch.tensor(lengths, device=DEVICE), sum(lengths))


def outputs_and_gradients(function, arguments):
    outputs = function(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [torch.linspace(-1, 1, y.numel(), device=DEVICE).to(y).view_as(y) for y in outputs]
    inputs = [x for x in arguments if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return [*outputs, *torch.autograd.grad(outputs, inputs, weights)]


def assert_matches_the_reference(operation, arguments, tolerance=1e-9):
    reference = backends_of(operation)["torch"].function
    ours = outputs_and_gradients(KERNELS[operation].function, arguments)
    expected = outputs_and_gradients(reference, arguments)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels_match_the_references_in_float64(kernel, lengths):
    assert max_error(kernel, DEVICE, torch.float64, lengths, width=3) < 1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels_match_the_references_in_lower_precision(kernel, dtype, tolerance):
    assert max_error(kernel, DEVICE, dtype, [3, 0, 40, 5], width=3) < tolerance


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)
@pytest.mark.parametrize("operation", DIRECTED)
def test_one_direction(operation, dtype, tolerance):
    for lengths in ([7], [1, 1, 1], [5, 0, 64, 1, 63]):
        sizes = Sizes.uniform(5)._replace(directions=1)
        assert max_error(KERNELS[operation], DEVICE, dtype, lengths, sizes=sizes) < tolerance


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_width_beyond_one_tile(kernel):
    assert max_error(kernel, DEVICE, torch.float64, [5, 4], width=70) < 1e-9


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("lengths", "taps"), [([40, 11], 4), ([1] * 20, 3), ([2, 0, 9, 3, 22], 2)], ids=str)
def test_convolution_gradients_across_runs_and_programs(lengths, taps, directions, monkeypatch):
    module = import_module("ldarnet.ops.kernels.convolution")
    for name, value in {"RUNS": 2, "RUN_LENGTH": 8, "CHANNELS": 4}.items():
        monkeypatch.setattr(module, name, value)
    sizes = Sizes.uniform(5)._replace(directions=directions, taps=taps)
    assert_matches_the_reference("convolution", example("convolution", lengths, sizes=sizes, device=DEVICE))


@pytest.mark.parametrize("operation", ["add_norm", "gated_norm"])
def test_weight_gradients_of_programs_with_several_tiles(operation, monkeypatch):
    module = import_module(f"ldarnet.ops.kernels.{operation}")
    monkeypatch.setattr(module, "PROGRAMS", 2)
    assert max_error(KERNELS[operation], DEVICE, torch.float64, [150, 51], width=40) < 1e-9


def test_swiglu_rows_wider_than_a_tile(monkeypatch):
    monkeypatch.setattr("ldarnet.ops.kernels.swiglu.MAX_TILE_WIDTH", 16)
    assert max_error(KERNELS["swiglu"], DEVICE, torch.float64, [9], width=37) < 1e-9


def test_strided_rows():
    wide = torch.randn(20, 30, dtype=torch.float64, device=DEVICE, requires_grad=True)
    _, weight, bias, packing = example("convolution", [12, 8], width=6, device=DEVICE)
    assert_matches_the_reference("convolution", [wide[:, 7:13], weight, bias, packing])
    y, _, weight = example("gated_norm", [12, 8], width=6, device=DEVICE)
    assert_matches_the_reference("gated_norm", [y, wide[:, 20:26], weight])


def test_gradients_are_written_into_the_given_memory():
    wide = torch.randn(20, 30, dtype=torch.float64, device=DEVICE, requires_grad=True)
    memory = torch.empty_like(wide)
    _, weight, bias, packing = example("convolution", [12, 8], width=6, device=DEVICE)
    x, convolution = wide[:, 7:13], KERNELS["convolution"].function
    (dx,) = torch.autograd.grad(convolution(x, weight, bias, packing, lambda: memory[:, 7:13]).sum(), x)
    assert dx.data_ptr() == memory[:, 7:13].data_ptr()
    torch.testing.assert_close(dx, torch.autograd.grad(convolution(x, weight, bias, packing).sum(), x)[0])
    y, _, weight = example("gated_norm", [12, 8], width=6, device=DEVICE)
    z, gated_norm = wide[:, 20:26], KERNELS["gated_norm"].function
    (dz,) = torch.autograd.grad(gated_norm(y, z, weight, lambda: memory[:, 20:26]).sum(), z)
    assert dz.data_ptr() == memory[:, 20:26].data_ptr()
    torch.testing.assert_close(dz, torch.autograd.grad(gated_norm(y, z, weight).sum(), z)[0])


def test_the_first_norm_of_a_stack_has_no_branch_to_add():
    _, residual, weight, dtype = example("add_norm", [9], width=6, device=DEVICE)
    assert_matches_the_reference("add_norm", [None, residual, weight, dtype])


@pytest.mark.parametrize("used", [0, 1], ids=["normed", "sum"])
def test_add_norm_with_one_unused_output(used):
    arguments = example("add_norm", [9], width=6, device=DEVICE)
    reference = backends_of("add_norm")["torch"].function
    ours, expected = (
        torch.autograd.grad(function(*arguments)[used].sin().sum(), arguments[:3])
        for function in (KERNELS["add_norm"].function, reference)
    )
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("width", [0, 4, 6])
def test_rotary_of_no_some_and_all_features(width):
    qkv, packing, *_ = example("rotary", [7, 0, 5], width=6, device=DEVICE)
    assert_matches_the_reference("rotary", [qkv, packing, 2, width])


def test_router_of_zero_rows_and_of_equal_neighbors():
    q, k, packing = example("router", [6, 3], width=5, device=DEVICE)
    q, k = q.detach().clone(), k.detach().clone()
    q[2] = k[4] = 0
    q[7] = k[7] = q[6] = k[6]
    assert_matches_the_reference("router", [q.requires_grad_(), k.requires_grad_(), packing], 1e-7)
    assert KERNELS["router"].function(q, k, packing)[[0, 6, 7]].tolist() == pytest.approx([1, 1, 0])


def test_router_keeps_nan():
    q, k, packing = example("router", [6, 3], width=5, device=DEVICE)
    q = q.detach().clone()
    q[2, 1] = torch.nan
    p = KERNELS["router"].function(q, k, packing)
    assert p.isnan().nonzero().flatten().tolist() == [2, 3]


def dechunk_arguments(chunk_lengths, bases_per_chunk, probability=None):
    M = sum(chunk_lengths)
    chunk, p, *_ = example("dechunk", chunk_lengths, width=3, device=DEVICE)
    p = p if probability is None else torch.full_like(p, probability).requires_grad_()
    chunk_of = torch.arange(M, device=DEVICE).repeat_interleave(torch.tensor(bases_per_chunk, device=DEVICE))
    confidence, residual = torch.randn(len(chunk_of)), torch.randn(len(chunk_of), 3)
    confidence, residual = (x.double().to(DEVICE).requires_grad_() for x in (confidence, residual))
    return [chunk, p, confidence, residual, packing_of(chunk_lengths), chunk_of]


@pytest.mark.parametrize(
    ("chunk_lengths", "bases_per_chunk"),
    [([1], [1]), ([1], [37]), ([1, 1, 1], [50, 1, 9]), ([5, 4], [1] * 9), ([3, 0, 2], [1, 30, 2, 4, 5])],
    ids=["one base", "one chunk", "one chunk per sequence", "one base per chunk", "empty sequence"],
)
def test_dechunk_with_many_and_few_boundaries(chunk_lengths, bases_per_chunk):
    assert_matches_the_reference("dechunk", dechunk_arguments(chunk_lengths, bases_per_chunk))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("chunk_lengths", LENGTHS, ids=str)
def test_dechunk_with_a_probability_per_direction(chunk_lengths, directions):
    arguments = dechunk_arguments(chunk_lengths, [2] * sum(chunk_lengths))
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(directions, sum(chunk_lengths), generator=generator, dtype=torch.float64)
    arguments[1] = p.to(DEVICE).requires_grad_()
    assert_matches_the_reference("dechunk", arguments)


@pytest.mark.parametrize("probability", [0.0, 1e-4, 0.5000001, 1.0])
def test_dechunk_at_extreme_probabilities(probability):
    assert_matches_the_reference("dechunk", dechunk_arguments([40, 3], [2] * 43, probability), 1e-7)


def test_dechunk_is_accurate_over_a_long_sequence():
    chunk = torch.randn(1500, 1, device=DEVICE)
    p, zeros = torch.rand(1500, device=DEVICE), torch.zeros(1500, 1, device=DEVICE)
    packing, chunk_of = packing_of([1500]), torch.arange(1500, device=DEVICE)
    ours = KERNELS["dechunk"].function(chunk, p, zeros[:, 0], zeros, packing, chunk_of)
    reference = backends_of("dechunk")["torch"].function
    exact = reference(chunk.double(), p.double(), zeros[:, 0].double(), zeros.double(), packing, chunk_of)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


def test_dechunk_saves_nothing_of_base_length_for_the_backward_pass():
    arguments = dechunk_arguments([6, 4], [20] * 10)
    bases, width = arguments[3].shape
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        KERNELS["dechunk"].function(*arguments)
    assert saved and max(saved) < bases * width


@needs_gpu
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_kernels_are_deterministic_and_do_not_synchronize_the_device(kernel):
    arguments = example(kernel.operation, LENGTHS[-1], device=DEVICE)
    before = outputs_and_gradients(kernel.function, arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        after = outputs_and_gradients(kernel.function, arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
