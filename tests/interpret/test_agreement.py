"""Agreement of boundary masks: models and masks whose agreement is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import reverse_complement
from ldarnet.interpret.agreement import StrandSymmetry, agreement, mask_leak, strand_symmetry
from ldarnet.interpret.boundaries import boundary_track, boundary_tracks
from tests.support.scripted_router import ScriptedRouter, changes_of_base

masks = st.tuples(st.integers(1, 4), st.integers(1, 30)).flatmap(lambda shape: arrays(bool, shape))


def random_mask(windows, length, rate, seed):
    mask = np.random.default_rng(seed).random((windows, length)) < rate
    mask[:, 0] = True
    return mask


def random_ids(windows, length, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (windows, length)).astype(np.uint8)


def model_of(method, **options):
    torch.manual_seed(0)
    return LDARNetForMaskedLM(LDARNetConfig.preset("tiny", chunking={"method": method, **options}))


def symmetry_of(model, ids) -> StrandSymmetry:
    (forward,), (reverse,) = (boundary_tracks(model, strand) for strand in (ids, reverse_complement(ids)))
    return strand_symmetry(forward, reverse)


@pytest.mark.parametrize("arch", ["tiny", "two routers"])
def test_tracks_of_a_batch_equal_those_of_its_windows(arch):
    torch.manual_seed(0)
    layout = {} if arch == "tiny" else {"arch_layout": ["m1", ["m1", ["M1"], "m1"], "m1"], "d_model": [32, 32, 32]}
    layout |= {} if arch == "tiny" else {"d_intermediate": [0, 0, 64], "attn_cfg": {}}
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **layout))
    ids = random_ids(5, 90)
    tracks = boundary_tracks(model, ids, batch=2)
    assert len(tracks) == model.config.num_stages - 1
    for row, window in enumerate(ids):
        for (probabilities, mask), (alone, mask_alone) in zip(tracks, boundary_track(model, window), strict=True):
            np.testing.assert_array_equal(mask[row], mask_alone)
            np.testing.assert_allclose(probabilities[row], alone, atol=1e-6)


@given(masks, st.integers(0, 9))
def test_equal_masks_agree_perfectly(mask, seed):
    mask[:, 0] = True
    found = agreement(mask, mask, seed=seed)
    boundaries = mask[:, 1:].sum()
    assert found.jaccard == 1 if boundaries else np.isnan(found.jaccard)
    if boundaries:
        assert 0 < found.random <= 1
        assert found.corrected == pytest.approx(1) if found.random < 1 else np.isnan(found.corrected)


def test_jaccard_counts_boundaries_after_the_first_base():
    first, second = np.array([[1, 1, 0, 1, 0]], bool), np.array([[1, 1, 1, 0, 0]], bool)
    found = agreement(first, second)
    assert found.jaccard == pytest.approx(1 / 3)
    assert found.random == pytest.approx(1 / 3)  # 2 * 2 / 4 = 1 common boundary expected, of 2 + 2
    assert found.corrected == pytest.approx(0)
    assert np.isnan(found.interval).all()  # one window


def test_independent_masks_agree_at_the_chance_level():
    found = agreement(random_mask(200, 400, 0.25, 1), random_mask(200, 400, 0.25, 2))
    assert found.random == pytest.approx(0.25 * 0.25 / (0.5 - 0.25 * 0.25), abs=0.01)
    assert found.jaccard == pytest.approx(found.random, abs=0.01)
    assert found.permuted == pytest.approx(found.random, abs=0.01)
    assert found.corrected == pytest.approx(0, abs=0.01)
    assert found.interval[0] < found.random < found.interval[1]
    assert found.corrected_interval[0] < 0 < found.corrected_interval[1]


def test_shuffled_chunks_keep_their_lengths():
    """Masks on a grid agree by their chunk lengths alone: the shuffled level is 1, the random level is far below."""
    grid = np.zeros((20, 64), bool)
    grid[:, ::4] = True
    found = agreement(grid, grid)
    assert found.permuted == 1
    assert found.random < 0.2


def test_agreement_is_deterministic():
    pair = random_mask(9, 60, 0.3, 1), random_mask(9, 60, 0.3, 2)
    assert agreement(*pair, seed=3) == agreement(*pair, seed=3)
    assert agreement(*pair, seed=3) != agreement(*pair, seed=4)


def test_boundaries_at_every_base_agree_without_evidence():
    model, ids = model_of("none"), random_ids(3, 40)
    found = symmetry_of(model, ids)
    assert found.agreement.jaccard == found.agreement.random == 1
    assert np.isnan([found.agreement.corrected, found.correlation]).all()


@pytest.mark.parametrize(("length", "jaccard"), [(64, 1), (65, 0), (66, 0)])
def test_grid_is_symmetric_if_it_ends_with_the_window(length, jaccard):
    found = symmetry_of(model_of("grid"), random_ids(3, length))
    assert found.agreement.jaccard == jaccard
    assert found.correlation == pytest.approx(1) if jaccard else found.correlation < 0


def test_random_boundaries_have_no_strand_symmetry():
    found = symmetry_of(model_of("random"), random_ids(60, 200)).agreement
    assert found.jaccard == pytest.approx(found.random, abs=0.02)
    assert found.corrected == pytest.approx(0, abs=0.02)


def test_boundaries_between_different_bases_are_strand_symmetric():
    found = symmetry_of(ScriptedRouter(changes_of_base), random_ids(8, 50))
    assert found.agreement.jaccard == found.agreement.corrected == 1
    assert found.correlation == pytest.approx(1)


def test_boundaries_at_a_base_are_not_strand_symmetric():
    """A boundary before each C is a boundary after each G on the other strand."""
    found = symmetry_of(ScriptedRouter(lambda ids: ids == 1), np.array([[0, 1, 0, 2, 0, 1]], np.uint8)).agreement
    assert found.jaccard == pytest.approx(0)  # before bases 1 and 5; mirrored: before base 4


def test_leak_of_boundaries_at_masked_bases():
    masked = np.random.default_rng(0).random((50, 100)) < 0.15
    forced = masked | np.roll(masked, 1, axis=1)
    forced[:, 0] = True
    leak = mask_leak(forced, masked)
    assert leak.within[1] == (1.0, pytest.approx(1 - 0.85**3, abs=0.02))
    assert leak.within[0][0] == pytest.approx(masked[:, 1:].sum() / forced[:, 1:].sum())
    assert leak.rates[0] == 1
    assert 0 < leak.rates[1] < 1
    assert not leak.rates[2:12].any()
    assert leak.rate == pytest.approx(forced[:, 1:].mean())


def test_boundaries_that_ignore_the_mask_do_not_leak():
    masked = np.random.default_rng(0).random((100, 400)) < 0.15
    leak = mask_leak(random_mask(100, 400, 0.25, 1), masked)
    for boundaries, bases in leak.within.values():
        assert boundaries == pytest.approx(bases, abs=0.01)
    np.testing.assert_allclose(leak.rates[:8], leak.rate, atol=0.02)


def test_leak_without_masked_bases_is_undefined_by_distance():
    leak = mask_leak(random_mask(3, 20, 0.3, 1), np.zeros((3, 20), bool))
    assert leak.within[4] == (0, 0)
    assert np.isnan(leak.rates).all()
