"""Stability of boundaries under edits of single bases: models with known reach."""

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.interpret.stability import KINDS, stability
from tests.support.scripted_router import ScriptedRouter, changes_of_base

DISTANCES = (0, 1, 8)


def random_ids(windows, length, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (windows, length)).astype(np.uint8)


def stability_of(model, kind, windows=6, length=80, **options):
    (found,) = stability(model, random_ids(windows, length), kind, distances=DISTANCES, **options)
    return found


def model_of(method):
    torch.manual_seed(0)
    return LDARNetForMaskedLM(LDARNetConfig.preset("tiny", chunking={"method": method}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_that_compares_neighbors_changes_next_to_the_edit(kind):
    found = stability_of(ScriptedRouter(changes_of_base), kind, sites=9)
    assert found.edits == 6 * 9
    assert found.changed[1] == found.affected[1] == 0
    assert found.changed[0] > 0
    assert 0 < found.affected[0] < 1
    assert found.rates[1] > 0
    assert not found.rates[2:].any()
    assert np.isnan(found.rates[0]) == (kind != "substitution")


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_with_a_reach_of_five_bases(kind):
    found = stability_of(ScriptedRouter(lambda ids: torch.nn.functional.pad(ids, (5, 0))[:, :-5] == 1), kind, sites=9)
    assert found.changed[1] > 0
    assert found.changed[8] == 0
    assert found.rates[5] > 0
    assert not found.rates[6:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_every_base_stays_a_boundary_without_chunking(kind):
    found = stability_of(model_of("none"), kind)
    assert found.boundaries == 80
    assert set(found.changed.values()) == set(found.affected.values()) == {0}


def test_a_grid_shifts_after_insertions_and_deletions():
    substituted, inserted, deleted = (stability_of(model_of("grid"), kind, length=400) for kind in KINDS)
    assert set(substituted.changed.values()) == {0}
    for found in (inserted, deleted):
        assert found.affected[8] > 0.8  # all but edits near the end of the window
        np.testing.assert_allclose(found.rates[9:], 0.25, atol=0.07)  # half of the bases after the edit


@pytest.mark.parametrize("kind", KINDS)
def test_random_boundaries_change_everywhere(kind):
    found = stability_of(model_of("random"), kind, windows=20, length=200)
    rate = 0.25
    assert found.affected[8] == 1
    np.testing.assert_allclose(np.nanmean(found.rates[1:]), 2 * rate * (1 - rate), atol=0.03)


def test_batches_do_not_change_the_result():
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    one, many = (stability_of(model, "insertion", batch=batch) for batch in (1, 64))
    assert (one.changed, one.affected) == (many.changed, many.affected)
    assert one.changed == stability_of(model, "insertion").changed


def test_first_base_and_unknown_bases_are_never_edited():
    ids = np.full((1, 12), 4, np.uint8)
    ids[0, [0, 7]] = 0
    (found,) = stability(ScriptedRouter(changes_of_base), ids, "substitution", sites=5)
    assert found.edits == 1
    assert found.rates[0] == 0  # base 7 still differs from N
    assert stability(ScriptedRouter(changes_of_base), ids[:, :7], "substitution") == []
