"""Causal models: no position sees its future, for every layout, chunking method and available backend."""

from dataclasses import replace

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForCausalLM, LDARNetForMaskedLM
from ldarnet.alphabet import PAD
from ldarnet.model.blocks import LocalAttention
from ldarnet.model.chunking import CAUSAL_VALUES, chunking_methods
from ldarnet.model.network import Stage
from ldarnet.ops import backends_of, operations, resolve

LAYOUTS = {
    "no router": {
        "arch_layout": ["m1T1"],
        "d_model": [16],
        "d_intermediate": [32],
        "attn_cfg": {"num_heads": [2], "rotary_emb_dim": [8], "window_size": [5]},
    },
    "one router": {},
    "two routers": {
        "arch_layout": ["m1t1", ["m1T1", ["M1T1"], "m1"], "t1m1"],
        "d_model": [16, 24, 32],
        "d_intermediate": [0, 32, 32],
        "attn_cfg": {"num_heads": [2, 2, 2], "rotary_emb_dim": [8, 8, 8], "window_size": [7, 3, -1]},
    },
}
CHUNKINGS = [
    {},
    {"method": "learned", "similarity": "bidirectional", "residual": "none"},
    {"method": "learned", "smoothing": "none"},
    {"method": "frozen"},
    {"method": "grid"},
    {"method": "random"},
    {"method": "none"},
]
LENGTHS = (23, 1, 40, 9)


def model_of(seed=0, *, causal=True, **changes):
    torch.manual_seed(seed)
    kind = LDARNetForCausalLM if causal else LDARNetForMaskedLM
    model = kind(LDARNetConfig.preset("tiny", causal=causal, **changes)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def sequences_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 5, (length,), generator=generator) for length in lengths]


def padded(sequences):
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=PAD)


def gradients_of(model, lengths, step=1, first=0):
    """Gradients of the logits at every `step`-th position with respect to the embeddings of a packed row.

    Yields:
        Gradients with respect to earlier sequences, to the position itself, and to everything after it.
    """
    embedded = []
    hook = model.model.embeddings.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    logits = model(padded(sequences_of(lengths))).logits
    hook.remove()
    (x_TD,), start = embedded, 0
    for row, length in enumerate(lengths):
        for t in range(first, length, step):
            (gradient,) = torch.autograd.grad(logits[row, t].sum(), x_TD, retain_graph=True)
            yield gradient[:start], gradient[start + t], gradient[start + t + 1 :]
        start += length


def assert_causal(model, lengths, step=1, first=0):
    for before, own, after in gradients_of(model, lengths, step, first):
        assert not after.any()
        assert not before.numel() or before.abs().max() < 1e-14  # rounding errors within a block of the scan
        assert own.abs().max() > 1e-6


@pytest.mark.parametrize("chunking", CHUNKINGS, ids=str)
@pytest.mark.parametrize("layout", ["one router", "two routers"])
def test_gradients_with_respect_to_later_positions_are_exactly_zero(layout, chunking):
    assert_causal(model_of(**LAYOUTS[layout], chunking=chunking), LENGTHS, step=3)


def test_gradients_of_a_single_stack():
    assert_causal(model_of(**LAYOUTS["no router"]), LENGTHS)


def test_gradients_with_a_static_number_of_chunks():
    model = model_of(**LAYOUTS["two routers"], chunking={"method": "grid"}).train()
    model.set_chunk_capacity(1.5)
    assert_causal(model, (64, 64), step=5)


def break_attention(model):
    for module in model.modules():
        if isinstance(module, LocalAttention):
            module.options = {}


def break_smoothing(model):
    for module in model.modules():
        if isinstance(module, Stage) and not module.innermost:
            module.smoothing = "bidirectional"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("broken", [None, break_attention, break_smoothing])
def test_the_check_finds_positions_that_see_their_future(layout, broken):
    if broken is break_smoothing and layout == "no router":
        pytest.skip("a single stack has no smoothing")
    model = model_of(causal=broken is not None, **LAYOUTS[layout])
    if broken is not None:
        broken(model)
    assert max(after.abs().max() for _, _, after in gradients_of(model, LENGTHS, step=5)) > 1e-6


@pytest.mark.parametrize("layout", ["one router", "two routers"])
@pytest.mark.parametrize("chunking", CHUNKINGS, ids=str)
def test_later_bases_change_neither_logits_nor_boundaries(layout, chunking):
    """Boundaries are steps, so gradients alone would not show that they depend on later bases."""
    model = model_of(**LAYOUTS[layout], chunking=chunking)
    (sequence,) = sequences_of([60])
    before = model(sequence[None])
    for t in (0, 1, 17, 40, 58):
        changed = torch.cat([sequence[: t + 1], (sequence[t + 1 :] + 1) % 4])
        after = model(changed[None])
        seen = slice(t + 1)
        torch.testing.assert_close(after.logits[0, seen], before.logits[0, seen], rtol=1e-9, atol=1e-9)
        chunks = t + 1
        for ours, theirs in zip(before.boundaries, after.boundaries, strict=True):
            assert torch.equal(ours.mask[0, :chunks], theirs.mask[0, :chunks])
            chunks = int(ours.mask[0, :chunks].sum())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_do_not_depend_on_the_batch(layout):
    model, sequences = model_of(**LAYOUTS[layout]), sequences_of(LENGTHS)
    together = model(padded(sequences)).logits
    for row, sequence in enumerate(sequences):
        torch.testing.assert_close(together[row, : len(sequence)], model(sequence[None]).logits[0])


@pytest.fixture
def triton_everywhere(monkeypatch):
    """Allow the Triton kernels on every device; yield the operations whose kernels ran."""
    pytest.importorskip("triton", reason="needs Triton: pip install triton")
    used = set()

    def spy(operation, function):
        return lambda *arguments: (used.add(operation), function(*arguments))[1]

    for operation in operations():
        if kernel := backends_of(operation).get("triton"):
            anywhere = replace(kernel, devices=(), function=spy(operation, kernel.function))
            monkeypatch.setitem(backends_of(operation), "triton", anywhere)
    resolve.cache_clear()
    yield used
    resolve.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU, where kernels are interpreted")
@pytest.mark.slow
def test_triton_kernels(triton_everywhere):
    layout = {"arch_layout": ["m1", ["m1", ["m1T1"], "m1"], "m1"], "d_model": [16] * 3, "d_intermediate": [0, 0, 32]}
    layout["attn_cfg"] = LAYOUTS["two routers"]["attn_cfg"]
    ops = {operation: "triton" for operation in operations() if "triton" in backends_of(operation)}
    lengths, model = (2, 5, 1), model_of(**layout, ops=ops)
    assert_causal(model, lengths, step=9, first=2)  # one position, because a backward pass takes seconds
    assert triton_everywhere >= {"convolution", "ssd", "gated_norm", "dechunk", "rotary", "swiglu"}
    ids, reference = padded(sequences_of(lengths)), model_of(**layout, ops=dict.fromkeys(ops, "torch"))
    torch.testing.assert_close(model(ids).logits, reference(ids).logits)


def test_causal_defaults_of_chunking():
    config = LDARNetConfig.preset("tiny", causal=True)
    assert config.chunking["smoothing"] == config.chunking["similarity"] == "forward"
    assert LDARNetConfig.preset("tiny", causal=True, chunking={"method": "frozen"}).chunking["selection"] == "threshold"
    assert LDARNetConfig.preset("tiny").chunking["smoothing"] == "bidirectional"


@pytest.mark.parametrize(
    ("chunking", "message"),
    [
        ({"smoothing": "bidirectional"}, "smoothing=bidirectional does not work with causal=true; use forward, none"),
        ({"smoothing": "mirrored"}, "smoothing=mirrored does not work"),
        ({"selection": "top_k"}, "selection=top_k does not work with causal=true; use threshold"),
        ({"mask_protection": "outside"}, "mask_protection=outside does not work"),
        ({"residual": "masked"}, "residual=masked does not work with causal=true; use full, none"),
        ({"method": "grid", "phase": "random"}, "phase=random does not work with causal=true; use fixed"),
        ({"method": "permuted"}, "method permuted looks ahead, but causal is true; use one of frozen, "),
        ({"method": "swapped"}, "method swapped looks ahead"),
    ],
    ids=str,
)
def test_chunking_that_looks_ahead_is_refused(chunking, message):
    with pytest.raises(ValueError, match=message):
        LDARNetConfig.preset("tiny", causal=True, chunking=chunking)
    LDARNetConfig.preset("tiny", chunking=chunking)


def test_every_causal_method_is_tested():
    tested = {chunking.get("method", "learned") for chunking in CHUNKINGS}
    assert {name for name, method in chunking_methods().items() if method.supports_causal} == tested
    values = {(key, value) for chunking in CHUNKINGS for key, value in chunking.items()}
    for key, (_, *others) in CAUSAL_VALUES.items():
        assert {(key, value) for value in others} <= values
