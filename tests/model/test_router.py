"""Router, ratio loss and chunking."""

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, alphabet
from ldarnet.model.chunking import Tokens, complete_options
from ldarnet.model.chunking.learned import Router
from ldarnet.model.losses import ratio_loss
from ldarnet.ops import KernelOptions, Packing


def packing_of(*lengths):
    return Packing.of_lengths(torch.tensor(lengths), sum(lengths))


def identity_router(width, **chunking):
    router = Router(complete_options(chunking), 4.0, width, KernelOptions())
    torch.nn.init.eye_(router.q_proj.weight)
    torch.nn.init.eye_(router.k_proj.weight)
    return router


def test_boundaries_are_at_sequence_starts_and_between_dissimilar_neighbors():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    row = torch.stack([a, a, -a, -a, a, a, b])
    routing = identity_router(2)(row, packing_of(4, 3), Tokens(None, alphabet.MASK))
    torch.testing.assert_close(routing.probability, torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.5]))
    # The last probability is exactly 0.5, which is not a boundary.
    assert routing.boundary.tolist() == [True, False, True, False, True, False, False]


@pytest.mark.parametrize("target", [2.0, 4.0, 7.5])
def test_the_ratio_loss_has_its_minimum_at_the_target(target):
    share = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    loss = ratio_loss(share, share, target)
    assert abs(share[loss.argmin()] - 1 / target) <= 0.01
    torch.testing.assert_close(
        ratio_loss(torch.tensor(1 / target), torch.tensor(1 / target), target), torch.tensor(1.0)
    )


def test_the_ratio_loss_lowers_probabilities_when_there_are_too_many_boundaries():
    for share, sign in ((0.9, 1), (0.05, -1)):
        mean = torch.tensor(share, requires_grad=True)
        ratio_loss(torch.tensor(share), mean, 4.0).backward()
        assert torch.sign(mean.grad) == sign


def test_router_logits_and_losses_stay_in_float32_under_autocast():
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    ids = torch.randint(0, 4, (1, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(ids, labels=ids)
    assert out.boundaries[0].probability.dtype == torch.float32
    assert out.logits.dtype == torch.float32
    assert out.loss.dtype == torch.float32


def test_the_main_network_sees_boundary_positions_only():
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    seen = []
    model.model.backbone.main.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    out = model(torch.randint(0, 4, (3, 50)))
    assert seen == [int(out.boundaries[0].mask.sum())]
