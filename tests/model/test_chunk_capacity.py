"""A static number of chunks changes neither loss nor gradients; chunks that do not fit make the output NaN."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.utils import counters

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import PAD
from ldarnet.model import network
from ldarnet.ops import Packing, choose_backends, resolve
from ldarnet.ops.registry import Backend, backends_of, operations

SIZES = {
    "ssm_cfg": {"d_state": 8, "headdim": 8, "chunk_size": 16},
    "tie_word_embeddings": True,
    "target_ratio": 2.0,
}
ONE_ROUTER = LDARNetConfig.preset("tiny", **SIZES)
TWO_ROUTERS = LDARNetConfig.preset(
    "tiny",
    **SIZES,
    arch_layout=["m1t1", ["m1t1", ["M1T1"], "m1"], "t1"],
    d_model=[16, 16, 24],
    d_intermediate=[0, 0, 32],
    attn_cfg={"num_heads": [2, 2, 2], "rotary_emb_dim": [8, 8, 8], "window_size": [7, 5, -1]},
)
CONFIGS = {"one router": ONE_ROUTER, "two routers": TWO_ROUTERS}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model(request):
    """Model in float64 that chunks random sequences into about two positions per chunk."""
    torch.manual_seed(0)
    return LDARNetForMaskedLM(CONFIGS[request.param]).double().train()


@pytest.fixture(autouse=True)
def small_multiple(monkeypatch):
    """Round the number of chunks up to a multiple of 8, because the sequences of these tests are short."""
    monkeypatch.setattr(network, "SLOT_MULTIPLE", 8)


def batch(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(0, 4, (length,), generator=generator)
    return ids, torch.where(ids == PAD, -100, ids)


def run(model, factor, lengths, seed):
    """Outputs of a batch, and all gradients."""
    model.set_chunk_capacity(factor)
    model.zero_grad()
    ids, labels = batch(lengths, seed)
    out = model(ids, labels=labels, output_hidden_states=True)
    out.loss.backward()
    return out, [parameter.grad.clone() for parameter in model.parameters()]


def capacities(model, bases, factor):
    """Number of chunks that each stage computes."""
    found, positions = [], bases
    for stage in range(model.config.num_stages - 1):
        share = (1.0 if stage else factor) / model.config.target_ratio
        positions = min(positions, math.ceil(share * positions / 8) * 8)
        found.append(positions)
    return found


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.sampled_from([1.0, 1.3, 1.7, 2.0, 5.0]),
    st.integers(0, 2**31),
)
def test_loss_and_gradients_equal_those_of_counted_chunks(model, lengths, factor, seed):
    exact, gradients = run(model, None, lengths, seed)
    static, again = run(model, factor, lengths, seed)
    chunks = [int(stage.mask.sum()) for stage in exact.boundaries]
    assert int(static.boundaries[0].mask.sum()) == chunks[0]
    if any(number > limit for number, limit in zip(chunks, capacities(model, sum(lengths), factor), strict=True)):
        assert static.loss.isnan()
        return
    torch.testing.assert_close(static.loss, exact.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(static.ratio_loss, exact.ratio_loss, rtol=1e-12, atol=0)
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-14)
    for one, other in zip(exact.boundaries, static.boundaries, strict=True):
        assert one.lengths.equal(other.lengths)
        width = one.mask.shape[1]
        assert one.mask.equal(other.mask[:, :width]) and not other.mask[:, width:].any()
        torch.testing.assert_close(other.probability[:, :width], one.probability, rtol=1e-12, atol=1e-14)
        assert not other.probability[:, width:].any()
    for one, other in zip(exact.hidden_states, static.hidden_states, strict=True):
        torch.testing.assert_close(other[:, : one.shape[1]], one, rtol=1e-12, atol=1e-13)
        assert not other[:, one.shape[1] :].any()


def test_evaluation_counts_chunks(model):
    ids, labels = batch([40, 60], 3)
    model.eval()
    model.set_chunk_capacity(None)
    expected = model(ids, labels=labels).loss
    model.set_chunk_capacity(0.1)
    assert model(ids, labels=labels).loss.equal(expected)
    model.train()
    assert model(ids, labels=labels).loss.isnan()


@pytest.mark.parametrize("autocast", [False, True])
def test_chunks_that_do_not_fit_make_every_output_nan(autocast):
    model = LDARNetForMaskedLM(ONE_ROUTER).train()
    model.set_chunk_capacity(0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert model(batch([50, 50], 0)[0]).logits.isnan().all()


@pytest.fixture
def use_backend(monkeypatch):
    """Function that replaces the function of every operation, `replacement(operation, function)`, on a CPU in float32.

    It returns the backend overrides.
    """

    def use(replacement):
        for operation, name in choose_backends("cpu", torch.float32).items():
            function = replacement(operation, resolve(operation, "cpu", torch.float32, name).function)
            monkeypatch.setitem(backends_of(operation), "replaced", Backend(operation, "replaced", function))
        resolve.cache_clear()
        return dict.fromkeys(operations(), "replaced")

    torch.compiler.reset()
    yield use
    resolve.cache_clear()
    torch.compiler.reset()


@pytest.mark.slow
def test_a_static_number_of_chunks_needs_one_compilation(use_backend):
    ops = use_backend(lambda operation, function: torch.compiler.disable(function))
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **SIZES, ops=ops)).train()
    for layer in model.model.backbone.main.main.layers:
        layer.compile(backend="eager", dynamic=False)

    def compiled(factor):
        """Number of chunks in each of five batches, and number of graphs compiled after the first batch."""
        torch.compiler.reset()
        model.set_chunk_capacity(factor)
        chunks, graphs = [], []
        for seed in range(5):
            ids, labels = batch([60] * 3, seed)
            out = model(ids, labels=labels)
            out.loss.backward()
            chunks.append(int(out.boundaries[0].mask.sum()))
            graphs.append(counters["stats"]["unique_graphs"])
        return chunks, graphs[-1] - graphs[0]

    counted, again = compiled(None)
    static, none = compiled(1.5)
    assert static == counted and len(set(counted)) > 1
    assert again > 0 and none == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(sum), st.randoms(use_true_random=False))
def test_static_selection_is_the_selection_with_padding(lengths, draw):
    total = sum(lengths)
    packing = Packing.of_lengths(torch.tensor(lengths), total, max(lengths))
    mask = torch.tensor([draw.random() < 0.5 for _ in range(total)], dtype=torch.bool)
    slots = draw.randint(1, total)
    index, chunks = packing.select(mask)
    static_index, static = packing.select_static(mask, slots)
    kept = min(len(index), slots)
    assert static_index[:kept].equal(index[:kept])
    assert len(static_index) == static.total == slots == sum(static.host_lengths)
    assert static_index.unique().numel() >= kept and int(static_index.max()) < total
    assert max(static.host_lengths) <= static.max_length <= max(lengths)
    assert static.sequences == len(lengths)
    if len(index) <= slots:
        assert static.host_lengths[: len(lengths)] == chunks.host_lengths
        assert int(static.real.sum()) == len(index)
        again, inner = static.select_static(static.real, slots)
        assert again[: len(index)].equal(torch.arange(len(index))) and inner.starts.equal(static.starts)
        index, exact = static.select(static.real)
        assert exact.starts.equal(chunks.starts) and exact.padding == 0


@pytest.mark.slow
def test_triton_kernels_with_a_static_number_of_chunks(use_backend):
    pytest.importorskip("triton")

    def kernel(operation, function):
        known = backends_of(operation)
        return known["triton"].function if "triton" in known else function

    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **SIZES, ops=use_backend(kernel))).double().train()
    exact, gradients = run(model, None, [20, 13], 1)
    static, again = run(model, 1.6, [20, 13], 1)
    assert exact.boundaries[0].mask.sum() < capacities(model, 33, 1.6)[0] < 33
    torch.testing.assert_close(static.loss, exact.loss, rtol=1e-12, atol=0)
    for one, other in zip(gradients, again, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-13)
    assert run(model, 0.5, [20, 13], 1)[0].loss.isnan()
