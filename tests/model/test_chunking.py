"""Chunking methods: what each one selects, and what all of them have in common."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, alphabet
from ldarnet.model import chunking
from ldarnet.model.chunking import SMOOTHINGS, Tokens, chunking_methods
from ldarnet.model.chunking.given import GivenBoundaries
from ldarnet.model.chunking.selection import share_counts, top_share
from ldarnet.model.cost import cost
from ldarnet.ops import KernelOptions, Packing

METHODS = sorted(chunking_methods())
NESTED = [method for method in METHODS if chunking_methods()[method].nested]
STAGES = [*((method, 1) for method in METHODS), *((method, 2) for method in NESTED)]
IN_NETWORK = [method for method in METHODS if not issubclass(chunking_methods()[method], GivenBoundaries)]
"""Methods whose boundaries are computed by the network."""
ALONE = [method for method in IN_NETWORK if method != "swapped"]
"""Methods whose boundaries do not depend on the rest of the batch."""
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=5)


def packing_of(lengths, known=False):
    return Packing.of_lengths(torch.tensor(lengths), sum(lengths), max(lengths), tuple(lengths) if known else None)


def config_of(method, stages=1, **options):
    changes = {}
    if stages == 2:
        changes = {
            "arch_layout": ["m1", ["m1", ["M1"], "m1"], "m1"],
            "d_model": [16, 24, 32],
            "d_intermediate": [0, 0, 32],
        }
    return LDARNetConfig.preset("tiny", chunking={"method": method, **options}, **changes)


def route(method, lengths, seed=0, ids=None, **options):
    generator = torch.Generator().manual_seed(seed)
    module = method_for(config_of(method, **options)).double()
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    h = torch.randn(sum(lengths), 16, dtype=torch.float64, generator=generator)
    ids = torch.randint(0, 4, (sum(lengths),), generator=generator) if ids is None else ids
    return module(h, packing_of(lengths), Tokens(ids, alphabet.MASK))


def method_for(config):
    return fitted(config.chunking_method(config.chunking, config.target_ratio, 16, KernelOptions()))


def model_for(config):
    model = LDARNetForMaskedLM(config)
    fitted(model.model.backbone.router)
    return model


def given_for(method, ids):
    """Boundaries for a method that does not find them."""
    return {"boundaries": torch.rand(ids.shape) < 0.3} if method == "file" else {}


def fitted(method):
    if method.learns_before_training:
        method.fit(np.random.default_rng(0).integers(0, 4, (10, 500), dtype=np.uint8))
    return method


def chunk_lengths(mask):
    return [*mask.nonzero().squeeze(1).tolist(), len(mask)]


@pytest.mark.parametrize("method", IN_NETWORK)
@settings(deadline=None, max_examples=25)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_each_sequence_starts_with_a_boundary_of_probability_one(method, lengths, seed):
    routing = route(method, lengths, seed)
    start = routing.packing.position == 0
    assert routing.boundary[start].all()
    assert (routing.probability[start] == 1).all()
    assert ((routing.probability >= 0) & (routing.probability <= 1)).all()


@pytest.mark.parametrize("method", ALONE)
@settings(deadline=None, max_examples=25)
@given(lengths=LENGTHS, seed=st.integers(0, 99))
def test_boundaries_do_not_depend_on_the_batch(method, lengths, seed):
    config = config_of(method)
    module = method_for(config).double()
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, generator=generator)
    h = torch.randn(sum(lengths), 16, dtype=torch.float64, generator=generator)
    ids = torch.randint(0, 6, (sum(lengths),), generator=generator)
    together = module(h, packing_of(lengths), Tokens(ids, alphabet.MASK))
    for part, part_ids, boundary in zip(
        h.split(lengths), ids.split(lengths), together.boundary.split(lengths), strict=True
    ):
        alone = module(part, packing_of([len(part)]), Tokens(part_ids, alphabet.MASK))
        assert torch.equal(alone.boundary, boundary)


@pytest.mark.parametrize(("method", "stages"), STAGES)
def test_every_method_trains_end_to_end(method, stages):
    torch.manual_seed(0)
    model = model_for(config_of(method, stages))
    ids = torch.randint(0, 4, (3, 50))
    out = model(ids, labels=ids, **given_for(method, ids))
    out.loss.backward()
    assert len(out.boundaries) == stages
    assert all(parameter.grad is not None for parameter in model.parameters())
    router = [name for name, _ in model.named_parameters() if ".router." in name]
    assert len(router) == (2 * stages if model.config.chunking_method.has_router else 0)


@pytest.mark.parametrize("method", METHODS)
def test_the_estimated_parameters_of_the_cost_model_match(method):
    config = config_of(method)
    model = LDARNetForMaskedLM(config)
    chunks = [3.0] if config.expected_ratio is None else None
    assert cost(config, 64, chunks).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_grid_has_a_boundary_at_every_fourth_base():
    routing = route("grid", [10, 3])
    assert routing.boundary.nonzero().squeeze(1).tolist() == [0, 4, 8, 10]


def test_a_grid_with_random_phase_has_an_offset_for_each_sequence_that_depends_on_the_seed():
    lengths = [40] * 50
    first, second = (route("grid", lengths, phase="random", seed=seed).boundary for seed in (0, 0))
    assert torch.equal(first, second)
    offsets = {tuple(row[1:5].nonzero().squeeze(1).tolist()) for row in first.view(50, 40)}
    assert offsets == {(0,), (1,), (2,), (3,)}
    ids, h = torch.randint(0, 4, (2000,)), torch.zeros(2000, 16)
    rows = [
        method_for(config_of("grid", phase="random", seed=seed))(h, packing_of(lengths), Tokens(ids, 5)).boundary
        for seed in (0, 1)
    ]
    assert not torch.equal(*rows)


def test_random_boundaries_have_the_target_rate_and_no_period():
    routing = route("random", [4000, 4000])
    mask = routing.boundary.view(2, -1).double()
    assert abs(mask.mean() - 0.25) < 0.02
    centered = mask - mask.mean()
    for lag in (1, 2, 3, 4, 8):
        assert abs((centered[:, lag:] * centered[:, :-lag]).mean() / centered.square().mean()) < 0.05
    assert not torch.equal(mask[0], mask[1])


def test_permuted_boundaries_keep_the_chunk_lengths():
    lengths = [60, 7, 200]
    learned, permuted = (route(method, lengths, seed=3) for method in ("learned", "permuted"))
    assert not torch.equal(learned.boundary, permuted.boundary)
    for before, after in zip(learned.boundary.split(lengths), permuted.boundary.split(lengths), strict=True):
        sizes = [torch.tensor(chunk_lengths(mask)).diff().sort().values.tolist() for mask in (before, after)]
        assert sizes[0] == sizes[1]


def test_swapped_boundaries_come_from_the_next_sequence():
    learned, swapped = (route(method, [30, 30, 30], seed=1).boundary.view(3, 30) for method in ("learned", "swapped"))
    assert torch.equal(swapped, learned.roll(-1, 0))


def test_swapped_boundaries_of_a_shorter_sequence_repeat_and_a_single_sequence_is_rotated():
    learned, swapped = (route(method, [8, 4], seed=1).boundary for method in ("learned", "swapped"))
    assert torch.equal(swapped[:8], learned[8:].repeat(2))
    assert torch.equal(swapped[8:], learned[:4])
    learned, swapped = (route(method, [8], seed=1).boundary for method in ("learned", "swapped"))
    assert torch.equal(swapped[1:], learned.roll(-4)[1:])


def test_no_gradient_reaches_the_encoder_through_frozen_boundaries():
    config = config_of("frozen")
    module, h = method_for(config), torch.randn(20, 16, requires_grad=True)
    assert not module(h, packing_of([20]), Tokens(None, alphabet.MASK)).probability.requires_grad
    assert list(module.parameters()) == []


def test_forward_similarity_is_that_of_h_net():
    lengths = [12]
    generator = torch.Generator().manual_seed(0)
    config = config_of("learned", similarity="forward")
    module = method_for(config).double()
    for weight in module.parameters():
        torch.nn.init.normal_(weight, generator=generator)
    h = torch.randn(12, 16, dtype=torch.float64, generator=generator)
    p = module(h, packing_of(lengths), Tokens(None, alphabet.MASK)).probability
    for t in range(1, 12):
        cos = torch.nn.functional.cosine_similarity(module.q_proj(h[t]), module.k_proj(h[t - 1]), dim=0)
        torch.testing.assert_close(p[t], (1 - cos) / 2)


@settings(deadline=None, max_examples=50)
@given(lengths=LENGTHS, ratio=st.sampled_from([2.0, 3.5, 4.0, 8.0]), seed=st.integers(0, 99))
def test_top_k_selects_the_most_probable_positions(lengths, ratio, seed):
    packing = packing_of(lengths, known=True)
    p = torch.rand(packing.total, generator=torch.Generator().manual_seed(seed)) * 0.99
    p[packing.position == 0] = 1
    chosen = top_share(p, packing, ratio)
    assert share_counts(packing, ratio) == tuple(int(mask.sum()) for mask in chosen.split(lengths))
    for probability, mask in zip(p.split(lengths), chosen.split(lengths), strict=True):
        assert mask.sum() == -(-len(mask) // ratio)
        assert mask[0]
        if not mask.all():
            assert probability[mask].min() >= probability[~mask].max()


def test_the_start_of_a_sequence_is_selected_even_if_other_probabilities_are_not_finite():
    p = torch.tensor([1.0, torch.nan, torch.nan, torch.nan, torch.nan])
    assert top_share(p, packing_of([5]), 5.0).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(("method", "stages"), STAGES)
def test_a_known_number_of_chunks_changes_no_output(method, stages, monkeypatch):
    torch.manual_seed(0)
    options = {"selection": "top_k"} if "selection" in chunking_methods()[method].OPTIONS else {}
    model = model_for(config_of(method, stages, **options)).double()
    ids = torch.randint(0, 4, (3, 50))
    ids[1, 30:] = alphabet.PAD
    calls, select_known = [], Packing.select_known
    monkeypatch.setattr(Packing, "select_known", lambda *args: calls.append(args) or select_known(*args))
    given_boundaries = given_for(method, ids)
    out = model(ids, labels=ids, **given_boundaries)
    assert len(calls) == (0 if method in ("permuted", "random", "swapped") else stages)
    monkeypatch.setattr(Packing, "select_known", lambda packing, mask, lengths: packing.select(mask))
    counted = model(ids, labels=ids, **given_boundaries)
    assert torch.equal(out.loss, counted.loss)


def test_the_residual_path_can_be_closed_at_masked_bases_or_removed():
    ids = torch.randint(0, 4, (2, 32))
    ids[0, 5] = alphabet.MASK
    outputs, original = {}, LDARNetForMaskedLM(config_of("grid"))
    torch.nn.init.normal_(original.model.backbone.residual_proj.weight)
    for residual in ("full", "masked", "none"):
        model, seen = LDARNetForMaskedLM(config_of("grid", residual=residual)), []
        model.load_state_dict(original.state_dict(), strict=residual != "none")
        backbone = model.model.backbone
        backbone.decoder.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        model(ids)
        outputs[residual] = seen[0].view(2, 32, -1)
    assert torch.equal(outputs["masked"][0, 5], outputs["none"][0, 5])
    assert torch.equal(outputs["masked"][1], outputs["full"][1])
    assert not torch.equal(outputs["full"][0, 5], outputs["none"][0, 5])


def smoothed_loop(p, chunk, smoothing):
    """Smoothed chunks of one sequence, one chunk after the other."""
    if smoothing == "none":
        return chunk
    gates, scans = p.clamp(1e-4, 1 - 1e-4), []
    after = torch.cat([gates[1:], gates.new_tensor([1 - 1e-4])]) if smoothing == "mirrored" else gates
    for gate, order in ((gates, range(len(p))), (after, reversed(range(len(p))))):
        state, states = torch.zeros_like(chunk[0]), {}
        for j in order:
            state = gate[j] * chunk[j] + (1 - gate[j]) * state
            states[j] = state
        scans.append(torch.stack([states[j] for j in range(len(p))]))
    return scans[0] if smoothing == "forward" else (scans[0] + scans[1]) / 2


@pytest.mark.parametrize("capacity", [None, 4.0])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_smoothing_matches_a_plain_loop(smoothing, capacity):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(config_of("learned", smoothing=smoothing, residual="none")).double()
    model.set_chunk_capacity(capacity)
    backbone, seen = model.model.backbone, {}
    backbone.router.register_forward_hook(lambda module, inputs, out: seen.update(routing=out))
    backbone.main.register_forward_hook(lambda module, inputs, out: seen.update(chunk=out[0]))
    backbone.decoder.register_forward_pre_hook(lambda module, inputs: seen.update(decoded=inputs[0]))
    model(torch.randint(0, 4, (2, 40)))
    p, boundary, ours = seen["routing"].probability, seen["routing"].boundary, seen["decoded"]
    chunks = int(boundary.sum())
    assert chunks > 10 and (capacity is None) == (len(seen["chunk"]) == chunks)
    first = int(boundary[:40].sum())
    p_of_chunks, chunk = p[boundary], seen["chunk"][:chunks]
    parts = [smoothed_loop(p_of_chunks[part], chunk[part], smoothing) for part in (slice(first), slice(first, None))]
    confidence = torch.where(boundary, p, 1 - p)
    plain = torch.cat(parts)[boundary.cumsum(0) - 1] * (1 + confidence - confidence.detach())[:, None]
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-10)
    weight = torch.randn_like(plain)
    actual, expected = (torch.autograd.grad(y, [p, seen["chunk"]], weight, retain_graph=True) for y in (ours, plain))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_every_smoothing_trains_end_to_end(smoothing, stages):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(config_of("learned", stages, smoothing=smoothing))
    ids = torch.randint(0, 4, (3, 50))
    with torch.autocast("cpu", torch.bfloat16):
        model(ids, labels=ids).loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_chunks_that_do_not_fit_make_the_output_nan(smoothing):
    model = LDARNetForMaskedLM(config_of("learned", smoothing=smoothing)).train()
    model.set_chunk_capacity(0.1)
    assert model(torch.randint(0, 4, (4, 200))).logits.isnan().all()


def test_the_hinge_ratio_loss_is_zero_below_the_target_rate():
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(config_of("none", ratio_loss="hinge"))
    ids = torch.randint(0, 4, (1, 40))
    assert model(ids).ratio_loss == 3  # 4 boundaries per 4 positions: max(4 * 1 - 1, 0)
    model = LDARNetForMaskedLM(config_of("grid", ratio_loss="hinge"))
    assert model(ids).ratio_loss == 0


@pytest.mark.parametrize("method", ["random", "permuted"])
def test_methods_that_need_tokens_refuse_embeddings(method):
    model = LDARNetForMaskedLM(config_of(method))
    with pytest.raises(ValueError, match="pass input_ids"):
        model(inputs_embeds=torch.zeros(1, 8, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gird"}, r"no method gird; did you mean 'grid'"),
        ({"method": "grid", "similarity": "forward"}, r"method grid has no option similarity"),
        ({"similarity": "backward"}, r"similarity=backward; use one of bidirectional, forward"),
        ({"smoothing": "backward"}, r"smoothing=backward; use one of bidirectional, mirrored, forward, none"),
        ({"method": "random", "seed": -1}, r"seed=-1 must be an integer from 0"),
        ({"method": "random", "seed": True}, r"seed=True must be an integer from 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LDARNetConfig.preset("tiny", chunking=options)


def test_a_grid_needs_an_integer_target_ratio():
    with pytest.raises(ValueError, match=r"target_ratio: 4.5 must be an integer"):
        LDARNetConfig.preset("tiny", chunking={"method": "grid"}, target_ratio=4.5)


def test_a_single_stack_has_no_chunks():
    shape = {"arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
    with pytest.raises(ValueError, match=r"chunking: a single stack, \['M1'\], has no chunks"):
        LDARNetConfig.preset("tiny", **shape, chunking={"method": "grid"})


def test_options_are_saved_with_the_model(tmp_path):
    model = LDARNetForMaskedLM(config_of("random", seed=3, smoothing="mirrored"))
    assert model.config.chunking["smoothing"] == "mirrored"
    model.save_pretrained(tmp_path)
    loaded = LDARNetForMaskedLM.from_pretrained(tmp_path)
    assert loaded.config.chunking == model.config.chunking
    ids = torch.randint(0, 4, (2, 40))
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_method_is_one_class(monkeypatch):
    monkeypatch.setattr(chunking, "_METHODS", dict(chunking.chunking_methods()))

    @chunking.register("halves")
    class Halves(chunking.ChunkingMethod):
        def forward(self, h_TD, packing, tokens):
            return chunking.certain(packing.position * 2 == packing.lengths[packing.sequence], h_TD, packing)

    model = LDARNetForMaskedLM(config_of("halves"))
    assert model(torch.zeros(1, 12, dtype=torch.int64)).boundaries[0].mask.nonzero().tolist() == [[0, 0], [0, 6]]
