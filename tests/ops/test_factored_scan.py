"""Scan on a CPU: blocks with moderate decays are computed in another way than the others, with the same results."""

import pytest
import torch

from ldarnet.ops import Packing
from ldarnet.ops.scan_factored import MAX_LOG_DECAY, FactoredRow
from ldarnet.ops.ssd import blocked_scan

BLOCK = 64


def arguments(lengths, decay, dtype=torch.float64, N=4, P=8):
    """Arguments of a scan whose log decay is about ``-decay`` per position."""
    generator, T = torch.Generator().manual_seed(0), sum(lengths)
    x, b, c, rate = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(T, 2, 3, P), (T, 2, N), (T, 2, N), (T, 2, 3)]
    )
    tensors = [value.to(dtype).requires_grad_() for value in (x, -decay * (1 + 0.1 * rate.tanh()), b, c)]
    return tensors, Packing.of_lengths(torch.tensor(lengths), T)


def results(tensors, packing, scale=1.0):
    """Output, and gradients of a weighted sum of the output, divided by the scale of the weights."""
    y = blocked_scan(*tensors, packing, BLOCK)
    weight = torch.linspace(-scale, scale, y.numel(), dtype=torch.float64).to(y.dtype).view_as(y)
    return [y.detach(), *(gradient / scale for gradient in torch.autograd.grad(y, tensors, weight))]


@pytest.fixture
def sizes(monkeypatch):
    """Block sizes of the slabs; 0 for those with decays that are too small."""
    used, slab = set(), FactoredRow.slab

    def spy(self, rows, k):
        found = slab(self, rows, k)
        used.add(found.x.shape[1] if found else 0)
        return found

    monkeypatch.setattr(FactoredRow, "slab", spy)
    return used


@pytest.mark.parametrize(("decay", "size"), [(0.0, 64), (0.1, 64), (1.2, 32), (2.5, 16), (9.0, 0)])
@pytest.mark.parametrize("lengths", [[256], [100, 0, 1, 91, 64]], ids=str)
def test_blocks_are_as_large_as_decays_allow_and_results_are_the_same(decay, size, lengths, sizes, monkeypatch):
    tensors, packing = arguments(lengths, decay)
    ours = results(tensors, packing)
    assert sizes == {size}
    monkeypatch.setattr("ldarnet.ops.scan_factored.MAX_LOG_DECAY", -1.0)
    for one, other in zip(ours, results(tensors, packing), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert sizes == {size, 0}


def test_small_blocks_are_not_used_for_wide_states(sizes):
    tensors, packing = arguments([128], 1.2, N=64, P=64)
    results(tensors, packing)
    assert sizes == {0}


@pytest.mark.parametrize("scale", [1.0, 1e-15])
def test_small_gradients_do_not_underflow(scale, sizes):
    tensors, packing = arguments([192], 0.9 * MAX_LOG_DECAY / BLOCK, torch.float32)
    exact = results([value.detach().double().requires_grad_() for value in tensors], packing)
    for ours, expected in zip(results(tensors, packing, scale), exact, strict=True):
        assert (ours - expected).norm() <= 1e-5 * expected.norm()
    assert sizes == {BLOCK}


def test_a_reset_of_the_state_is_accurate(sizes):
    tensors, packing = arguments([192], 0.05, torch.float32)
    with torch.no_grad():
        tensors[1][96] = -40  # almost nothing passes this position
    exact = results([value.detach().double().requires_grad_() for value in tensors], packing)
    for ours, expected in zip(results(tensors, packing), exact, strict=True):
        assert (ours - expected).norm() <= 1e-5 * expected.norm()
    assert sizes == {BLOCK}
