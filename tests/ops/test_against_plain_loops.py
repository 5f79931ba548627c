"""Every operation against a naive loop: float64, forward and backward, packed sequences."""

import math

import pytest
import torch
from torch.nn import functional as F

from ldarnet.ops import Packing, backends_of
from ldarnet.ops.dechunk import mirrored
from ldarnet.ops.ssd import blocked_scan

LENGTHS = [[1], [7], [64], [130], [1, 1, 1], [5, 64, 1, 200, 63], [3, 0, 70]]


@pytest.fixture(params=["whole", "slabs"])
def slab_size(request, monkeypatch):
    """Process the row as one slab, or in the smallest possible slabs."""
    if request.param == "slabs":
        monkeypatch.setattr("ldarnet.ops.slabs.SLAB_ELEMENTS", 8)
        monkeypatch.setattr("ldarnet.ops.slabs.MIN_ROWS", 1)


@pytest.fixture(params=["moderate", "any"])
def decays(request, monkeypatch):
    """Compute blocks with moderate decays in their own way, as on a CPU, or all blocks in the same way, as on a GPU."""
    if request.param == "any":
        monkeypatch.setattr("ldarnet.ops.scan_factored.MAX_LOG_DECAY", -1.0)


def packing_of(lengths):
    return Packing.of_lengths(torch.tensor(lengths), sum(lengths))


def spans(lengths):
    start = 0
    for length in lengths:
        yield range(start, start + length)
        start += length


def random(*shape, seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


def cpu_backends(operation):
    return [b.function for b in backends_of(operation).values() if not b.unsupported_reason("cpu", torch.float64)]


def assert_same_with_gradients(ours, plain, inputs, tolerance=1e-9):
    torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance)
    weight = torch.linspace(-1, 1, plain.numel(), dtype=plain.dtype).view_as(plain)
    actual = torch.autograd.grad((ours * weight).sum(), inputs, retain_graph=True)
    expected = torch.autograd.grad((plain * weight).sum(), inputs)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def plain_ssd(x, dt, a, b, c, d, lengths):
    T, K, H, P = x.shape
    rows = [[None] * T for _ in range(K)]
    for span in spans(lengths):
        for k in range(K):
            state = x.new_zeros(H, b.shape[-1], P)
            for t in span if k == 0 else reversed(span):
                decay = (dt[t, k] * a[k]).exp()[:, None, None]
                state = decay * state + dt[t, k][:, None, None] * b[t, k][None, :, None] * x[t, k][:, None, :]
                rows[k][t] = torch.einsum("n,hnp->hp", c[t, k], state) + d[k][:, None] * x[t, k]
    return torch.stack([torch.stack(row) for row in rows], 1)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("function", cpu_backends("ssd"))
@pytest.mark.usefixtures("slab_size", "decays")
def test_ssd(function, directions, lengths):
    T, K = sum(lengths), directions
    x, b, c, d = random(T, K, 3, 4), random(T, K, 5), random(T, K, 5, seed=1), random(K, 3)
    dt, bias, a = random(T, 3, seed=2), random(K, 3, seed=4), random(K, 3, seed=3)
    ours = function(x, dt, bias, a, b, c, d, packing_of(lengths), 64)
    step = F.softplus(dt[:, None] + bias)
    assert_same_with_gradients(ours, plain_ssd(x, step, -a.exp(), b, c, d, lengths), [x, dt, bias, a, b, c, d])


@pytest.mark.usefixtures("decays")
def test_scan_gradients_agree_with_finite_differences():
    x, log_decay, b, c = random(7, 2, 1, 2), random(7, 2, 1), random(7, 2, 2), random(7, 2, 2, seed=1)
    packing = packing_of([2, 5])
    assert torch.autograd.gradcheck(
        lambda x, r, b, c: blocked_scan(x, -F.softplus(r), b, c, packing, 3), (x, log_decay, b, c)
    )


@pytest.mark.usefixtures("decays")
def test_scan_does_not_depend_on_the_block_size():
    x, log_decay, b, c = random(50, 2, 1, 2), -random(50, 2, 1).abs(), random(50, 2, 2), random(50, 2, 2, seed=1)
    packing = packing_of([20, 30])
    whole = blocked_scan(x, log_decay, b, c, packing, 50)
    for block in (1, 7, 16):
        torch.testing.assert_close(blocked_scan(x, log_decay, b, c, packing, block), whole)


def plain_convolution(x, weight, bias, lengths):
    T = len(x)
    K, _, W = weight.shape
    out = [[bias[k] for _ in range(T)] for k in range(K)]
    for span in spans(lengths):
        for t in span:
            for back in range(W):
                for k, source in ((0, t - back), (1, t + back))[:K]:
                    if source in span:
                        out[k][t] = out[k][t] + weight[k, :, W - 1 - back] * x[source]
    return F.silu(torch.stack([torch.stack(row) for row in out], 1))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("function", cpu_backends("convolution"))
@pytest.mark.usefixtures("slab_size")
def test_convolution(function, directions, lengths):
    x, weight, bias = random(sum(lengths), 3), random(directions, 3, 4), random(directions, 3)
    ours = function(x, weight, bias, packing_of(lengths))
    assert_same_with_gradients(ours, plain_convolution(x, weight, bias, lengths), [x, weight, bias])


@pytest.mark.parametrize("T", [1, 7])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("function", cpu_backends("gated_norm"))
@pytest.mark.usefixtures("slab_size")
def test_gated_norm(function, directions, T):
    y, z, weight = random(T, directions, 8), random(T, 8), random(directions, 8)
    gated = y * (z * z.sigmoid())[:, None]
    plain = (gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight).mean(1)
    assert_same_with_gradients(function(y, z, weight), plain, [y, z, weight])


def plain_dechunk(chunk, probability, confidence, residual, lengths, chunk_of):
    """Smoothing with a probability per chunk, (M,), or per direction and chunk, (2, M) or (1, M)."""
    p = (probability if probability.dim() == 2 else probability.expand(2, -1)).clamp(1e-4, 1 - 1e-4)
    rows = [torch.zeros_like(chunk[0])] * len(chunk)
    for span in spans(lengths):
        for k in range(len(p)):
            state = torch.zeros_like(chunk[0])
            for j in reversed(span) if k else span:
                state = p[k, j] * chunk[j] + (1 - p[k, j]) * state
                rows[j] = rows[j] + state / len(p)
    return residual + torch.stack(rows)[chunk_of] * (1 + confidence - confidence.detach())[:, None]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("function", cpu_backends("dechunk"))
@pytest.mark.parametrize("kind", ["random", "one", "threshold"])
@pytest.mark.parametrize("spread", [1, 3], ids=["one base per chunk", "up to three bases per chunk"])
def test_dechunk(function, lengths, kind, spread):
    M = sum(lengths)
    chunk_of = torch.arange(M).repeat_interleave(torch.arange(M) % spread + 1)
    chunk, level = random(M, 3), random(M, seed=5)
    confidence, residual = random(len(chunk_of), seed=6), random(len(chunk_of), 3, seed=7)
    probability = {"random": level.sigmoid(), "one": level * 0 + 1, "threshold": level * 0 + 0.5000001}[kind]
    ours = function(chunk, probability, confidence, residual, packing_of(lengths), chunk_of)
    plain = plain_dechunk(chunk, probability, confidence, residual, lengths, chunk_of)
    assert_same_with_gradients(ours, plain, [chunk, level, confidence, residual], 1e-7)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("function", cpu_backends("dechunk"))
@pytest.mark.parametrize("directions", [1, 2])
def test_dechunk_with_a_probability_per_direction(function, lengths, directions):
    M = sum(lengths)
    chunk_of = torch.arange(M).repeat_interleave(torch.arange(M) % 3 + 1)
    chunk, level = random(M, 3), random(directions, M, seed=5)
    confidence, residual = random(len(chunk_of), seed=6), random(len(chunk_of), 3, seed=7)
    ours = function(chunk, level.sigmoid(), confidence, residual, packing_of(lengths), chunk_of)
    plain = plain_dechunk(chunk, level.sigmoid(), confidence, residual, lengths, chunk_of)
    assert_same_with_gradients(ours, plain, [chunk, level, confidence, residual], 1e-7)


@pytest.mark.parametrize("function", cpu_backends("dechunk"))
def test_one_direction_sees_no_later_chunk(function):
    lengths, chunk_of = [40, 30], torch.arange(70)
    chunk, p, rest = random(70, 2), random(1, 70).sigmoid(), [random(70, grad=False), random(70, 2, grad=False)]
    out = function(chunk, p, *rest, packing_of(lengths), chunk_of)
    for t in (0, 20, 39, 40, 55):
        gradients = torch.autograd.grad(out[t].sum(), [chunk, p], retain_graph=True)
        assert not gradients[0][t + 1 :].any() and not gradients[1][:, t + 1 :].any()
        assert gradients[0][t].all()


@pytest.mark.parametrize("function", cpu_backends("dechunk"))
def test_mirrored_smoothing_of_reversed_sequences_is_reversed(function):
    lengths, M = [1, 64, 33, 2], 100
    packing, chunk_of = packing_of(lengths), torch.arange(M)
    chunk, rest = random(M, 3, grad=False), [torch.ones(M).double(), torch.zeros(M, 3).double()]
    p = torch.where(packing.position == 0, 1, random(M, grad=False).sigmoid())
    back = torch.cat([torch.tensor(span[::-1]) for span in spans(lengths)])
    # Chunk j of a reversed sequence follows the boundary that came after it.
    after = torch.cat([torch.tensor([*span[1:], span[0]]) for span in spans(lengths)])
    smoothed = function(chunk, mirrored(p, packing), *rest, packing, chunk_of)
    reverse = function(chunk[back], mirrored(p[after][back], packing), *rest, packing, chunk_of)
    torch.testing.assert_close(reverse, smoothed[back], rtol=1e-13, atol=1e-14)
    published = function(chunk, p, *rest, packing, chunk_of)
    assert (function(chunk[back], p[after][back], *rest, packing, chunk_of) - published[back]).abs().max() > 0.1


@pytest.mark.parametrize("function", cpu_backends("dechunk"))
def test_dechunk_is_accurate_over_a_long_sequence(function):
    chunk, level, chunk_of = random(3000, 2, grad=False), random(3000, grad=False), torch.arange(3000)
    rest = [random(3000, grad=False), random(3000, 2, grad=False, seed=1)]
    exact = plain_dechunk(chunk, level.sigmoid(), *rest, [3000], chunk_of)
    single = [x.float() for x in (chunk, level.sigmoid(), *rest)]
    ours = function(*single, packing_of([3000]), chunk_of)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)


def plain_attention(q, k, v, lengths, window, causal):
    out = torch.zeros_like(q)
    for span in spans(lengths):
        for t in span:
            visible = [s for s in span if (window < 0 or abs(s - t) <= window) and (s <= t or not causal)]
            score = torch.einsum("hp,shp->hs", q[t], k[visible]) / math.sqrt(q.shape[-1])
            row = torch.einsum("hs,shp->hp", score.softmax(-1), v[visible])
            out = out.index_copy(0, torch.tensor([t]), row[None])
    return out


@pytest.mark.parametrize("lengths", [[1], [40], [5, 5, 1, 33], [3, 0, 20]])
@pytest.mark.parametrize("window", [-1, 0, 3, 1000])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("function", cpu_backends("attention"))
def test_attention(function, causal, lengths, window, monkeypatch):
    monkeypatch.setattr("ldarnet.ops.attention.BLOCK", 8, raising=False)
    q, k, v = (random(sum(lengths), 2, 4, seed=seed) for seed in range(3))
    ours = function(q, k, v, packing_of(lengths), window, causal)
    assert_same_with_gradients(ours, plain_attention(q, k, v, lengths, window, causal), [q, k, v])


@pytest.mark.parametrize("function", cpu_backends("add_norm"))
@pytest.mark.parametrize("first", [True, False])
def test_add_norm(function, first):
    branch, residual, weight = random(5, 8), random(5, 8, seed=1), random(8)
    total = residual if first else residual + branch
    plain = total / (total.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    normed, total_out = function(None if first else branch, residual, weight, torch.float64)
    inputs = [residual, weight] if first else [branch, residual, weight]
    assert_same_with_gradients(torch.cat([normed, total_out]), torch.cat([plain, total]), inputs)


@pytest.mark.parametrize("function", cpu_backends("swiglu"))
def test_swiglu(function):
    x = random(5, 12)
    y, gate = x.chunk(2, -1)
    assert_same_with_gradients(function(x), gate * gate.sigmoid() * y, [x])


def plain_rotary(qkv, lengths, heads, width):
    parts = []
    for part in range(3):
        rows = []
        for position, row in zip((t for span in spans(lengths) for t in range(len(span))), qkv, strict=True):
            for x in row.view(3, heads, -1)[part]:
                turned = list(x)
                for i in range(width // 2 if part < 2 else 0):
                    pair = torch.complex(x[i], x[i + width // 2])
                    pair = pair * torch.polar(*x.new_tensor([1, position / 10000 ** (2 * i / width)]))
                    turned[i], turned[i + width // 2] = pair.real, pair.imag
                rows.append(torch.stack(turned))
        parts.append(torch.stack(rows).view(len(qkv), heads, -1))
    return torch.stack(parts)


@pytest.mark.parametrize("width", [0, 2, 4])
@pytest.mark.parametrize("lengths", [[1], [40], [3, 0, 9]])
@pytest.mark.parametrize("function", cpu_backends("rotary"))
def test_rotary(function, lengths, width):
    qkv = random(sum(lengths), 3 * 2 * 4)
    ours = function(qkv, packing_of(lengths), 2, width)
    assert_same_with_gradients(torch.stack(ours), plain_rotary(qkv, lengths, 2, width), [qkv])


@pytest.mark.parametrize("function", cpu_backends("rotary"))
def test_rotary_scores_depend_on_distance_only(function):
    row = random(1, 3 * 8, grad=False)
    q, k, _ = function(row.expand(120, -1), packing_of([120]), 1, 6)

    def score(i, j):
        return (q[i] * k[j]).sum()

    torch.testing.assert_close(score(3, 10), score(103, 110))
    assert not torch.isclose(score(3, 10), score(3, 11))


def plain_router(q, k, lengths):
    rows = []
    for span in spans(lengths):
        for t in span:
            if t == span[0]:
                rows.append(q.new_ones(()))
                continue
            pairs = ((q[t - 1], k[t]), (q[t], k[t - 1]))
            cos = sum(a @ b / (a.norm().clamp(min=1e-12) * b.norm().clamp(min=1e-12)) for a, b in pairs) / 2
            rows.append(((1 - cos) / 2).clamp(0, 1))
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("function", cpu_backends("router"))
def test_router(function, lengths):
    q, k = random(sum(lengths), 5), random(sum(lengths), 5, seed=1)
    inputs = [q, k] if max(lengths) > 1 else []
    ours, plain = function(q, k, packing_of(lengths)), plain_router(q, k, lengths)
    assert_same_with_gradients(ours, plain, inputs) if inputs else torch.testing.assert_close(ours, plain)
