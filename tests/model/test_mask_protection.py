"""The option mask_protection of the learned router."""

import torch

from ldarnet import LDARNetForMaskedLM, alphabet
from ldarnet.model.chunking import Tokens
from tests.model.test_chunking import config_of, method_for, packing_of, route


def test_protected_masked_bases_are_chunks_of_their_own():
    ids = torch.tensor([0, 1, 5, 2, 3, 5, 5, 0, 1, 5])
    plain, routing = (route("learned", [7, 3], ids=ids, mask_protection=value) for value in ("none", "boundaries"))
    forced = [2, 3, 5, 6, 9]
    free = [0, 1, 4, 7, 8]  # position 7 starts the second sequence
    assert routing.boundary[forced].all()
    assert (routing.probability[forced] == 1).all()
    assert torch.equal(routing.boundary[free], plain.boundary[free])
    assert routing.counted.nonzero().squeeze(1).tolist() == free


def test_a_router_that_looks_outside_the_mask_does_not_see_masked_positions():
    config = config_of("learned", mask_protection="outside")
    module = method_for(config).double()
    ids = torch.tensor([5, 1, 5, 2, 3, 5, 5, 0, 1, 5])
    h = torch.randn(10, 16, dtype=torch.float64)
    first = module(h, packing_of([7, 3]), Tokens(ids, alphabet.MASK))
    masked = (ids == alphabet.MASK) & (torch.arange(10) != 0)
    changed = torch.where(masked[:, None], torch.randn_like(h), h)
    second = module(changed, packing_of([7, 3]), Tokens(ids, alphabet.MASK))
    assert torch.equal(first.probability, second.probability)
    assert not first.boundary[masked].any()
    assert torch.equal(first.counted, ~masked)


def test_without_masked_bases_mask_protection_changes_nothing():
    ids = torch.randint(0, 4, (50,))
    plain, *protected = (
        route("learned", [20, 30], ids=ids, mask_protection=value) for value in ("none", "boundaries", "outside")
    )
    for routing in protected:
        assert torch.equal(routing.boundary, plain.boundary)
        torch.testing.assert_close(routing.probability, plain.probability)


def test_the_ratio_loss_does_not_count_protected_positions():
    torch.manual_seed(0)
    config = config_of("learned", mask_protection="boundaries")
    model = LDARNetForMaskedLM(config)
    ids = torch.randint(0, 4, (2, 64))
    ids[:, ::5] = alphabet.MASK
    (stage,) = model(ids).boundaries
    boundaries, probability, positions, all_boundaries, all_positions = stage.totals()
    free = torch.ones_like(ids, dtype=torch.bool)
    free[:, ::5] = free[:, 1::5] = False
    assert positions == free.sum()
    assert boundaries == stage.mask[free].sum()
    torch.testing.assert_close(probability, stage.probability[free].sum())
    assert (all_boundaries, all_positions) == (stage.mask.sum(), 128)
