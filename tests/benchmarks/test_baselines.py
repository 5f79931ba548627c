from copy import deepcopy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines import CONFIGURATIONS, arrange, calibrate_router
from ldarnet import LDARNetConfig, LDARNetForMaskedLM

LENGTH, WINDOWS = 96, 3


@pytest.fixture(params=["tiny", "bimamba2-tiny", "transformer-tiny"])
def name(request):
    return request.param


def built(name):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(CONFIGURATIONS[name]()).double()
    calibrate_router(model, batch())
    return model


def batch(length=LENGTH):
    return torch.randint(0, 6, (WINDOWS, length), generator=torch.Generator().manual_seed(1))


def arranged(model, arrangement):
    model = deepcopy(model)
    arrange(model, arrangement)
    return model


def loss_and_gradients(model):
    loss = model(batch(), labels=batch()).loss
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize(
    ("arrangement", "tolerance"), [("published", 1e-9), ("transformers", 1e-4), ("transformers-64", 1e-4)]
)
def test_arrangements_compute_the_same_function(name, arrangement, tolerance):
    model = built(name)
    loss, gradients = loss_and_gradients(model)
    same_loss, same_gradients = loss_and_gradients(arranged(model, arrangement))
    assert same_loss == pytest.approx(loss, rel=tolerance)
    for (parameter, _), expected, actual in zip(model.named_parameters(), gradients, same_gradients, strict=True):
        error = (actual - expected).abs().max() / expected.abs().max()
        assert error < tolerance, (parameter, error)


def test_chunks_are_padded_to_the_longest_sequence():
    seen = []
    model = arranged(built("tiny"), "published")
    model.model.backbone.main.main.register_forward_hook(lambda _, inputs, output: seen.append(len(output)))
    chunks = model(batch()).boundaries[0].mask.sum(1)
    assert len(set(chunks.tolist())) > 1, "padding is not tested: all windows have the same number of chunks"
    assert seen == [WINDOWS * chunks.max()]


def test_published_arrangement_computes_every_projection_twice():
    model = built("bimamba2-tiny")

    def work(model):
        with FlopCounterMode(display=False) as counter:
            loss_and_gradients(model)
        return counter.get_total_flops()

    projections = [
        module for layer in model.model.backbone.main.layers for module in (layer.mixer.in_proj, layer.mixer.out_proj)
    ]
    once = sum(3 * 2 * WINDOWS * LENGTH * projection.weight.numel() for projection in projections)
    assert work(arranged(model, "published")) - work(model) == once


def test_transformers_mixers_need_windows_of_equal_length():
    ids = batch()
    ids[0, -5:] = LDARNetConfig().pad_token_id
    with pytest.raises(AssertionError, match="equal length"):
        arranged(built("bimamba2-tiny"), "transformers")(ids)


@pytest.mark.parametrize("bases_per_chunk", [3.0, 5.0])
def test_calibrated_router_has_the_target_boundary_rate(bases_per_chunk):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    ids = batch(length=2000)
    calibrate_router(model, ids, bases_per_chunk)
    share = model(ids).boundaries[0].mask.float().mean().item()
    assert 1 / share == pytest.approx(bases_per_chunk, rel=0.1)


def test_models_of_110_million_parameters_are_of_similar_size():
    for name in ("ldarnet-110m", "transformer-110m", "bimamba2-110m"):
        with torch.device("meta"):
            model = LDARNetForMaskedLM(CONFIGURATIONS[name]())
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(110.7e6, rel=0.015)
