import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import context_counts
from benchmarks.context_counts import REACH, UNKNOWN, CountTable
from benchmarks.context_model import OFFSETS, fit, score
from ldarnet.alphabet import MASK, PAD, N, reverse_complement
from ldarnet.data import Masking
from ldarnet.errors import UserError

UNIFORM = math.log(4)
MASKING = Masking()


@pytest.fixture(autouse=True, scope="module")
def small_tables():
    """Limit dense tables to contexts of six bases; tables of ten bases take seconds to fill."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_counts, "DENSE", 6)
        yield


def random_bases(length, seed):
    return np.random.default_rng(seed).integers(0, 4, length).astype(np.uint8)


def windows_of(ids, length=128):
    return ids[: len(ids) // length * length].reshape(-1, length)


def masked(ids, length=128, masking=MASKING):
    windows = windows_of(ids, length)
    return masking.apply(windows, "test", np.arange(len(windows)))


def naive_count(pieces, offsets, context, order):
    counts = np.zeros(4)
    long = order > context_counts.DENSE
    for piece in pieces:
        for strand in (piece, reverse_complement(piece)):
            padded = np.pad(strand, REACH, constant_values=N)
            for position, base in enumerate(strand):
                around = [padded[REACH + position + offset] for offset in offsets]
                fits = all(c in (UNKNOWN, a) for c, a in zip(context[:order], around, strict=False))
                if base < N and fits and not (long and max(around) >= N):
                    counts[base] += 1
    return counts


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.lists(st.sampled_from([0, 0, 1, 2, 3, 4]), min_size=1, max_size=60), min_size=1, max_size=3),
    family=st.sampled_from(sorted(OFFSETS)),
    data=st.data(),
)
def test_counts_match_naive_counts(pieces, family, data):
    pieces = [np.array(piece, np.uint8) for piece in pieces]
    offsets = OFFSETS[family]
    table = CountTable(pieces, offsets)
    context = np.full(len(offsets), UNKNOWN, np.uint8)
    known = data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, UNKNOWN]), max_size=len(offsets)))
    context[: len(known)] = known
    for order in range(1, len(offsets) + 1):
        if order <= context_counts.DENSE or table.is_usable(context[None], order)[0]:
            expected = naive_count(pieces, offsets, context, order)
            np.testing.assert_array_equal(table.counts(context[None], order)[0], expected)


def test_random_bases_cannot_be_predicted():
    model = fit([random_bases(60_000, 0), random_bases(40_000, 1)], length=128)
    scores = score(model, *masked(random_bases(60_000, 2)))
    for name, values in scores.summary().items():
        assert values["mask_loss"] == pytest.approx(UNIFORM, abs=0.01), name
        assert values["mask_loss"] > UNIFORM - 0.003, name


def test_training_sequence_is_recognized_on_either_strand():
    genome = random_bases(40_000, 3)
    model = fit([genome, genome], length=128)  # given twice, so that held-out pieces also occur in the training pieces
    assert model.best == "mixed 8"
    for copy in (genome[10_000:20_000], reverse_complement(genome[10_000:20_000])):
        values = score(model, *masked(copy)).summary()
        assert values["mixed 8"]["mask_loss"] < 0.4
        assert values["mixed 8"]["accuracy"] > 0.7
        assert values["left 2"]["mask_loss"] > 1.3


def test_loss_reaches_a_known_entropy():
    # Pairs of equal bases; each base equals its neighbor on one side only.
    rng = np.random.default_rng(4)
    genome = np.repeat(rng.integers(0, 4, 100_000), 2).astype(np.uint8)
    model = fit([genome], length=128)
    values = score(model, *masked(np.repeat(rng.integers(0, 4, 20_000), 2).astype(np.uint8))).summary()
    # p(b | left) = 1/2 [b = left] + 1/8 if the left base is shown unchanged.
    ideal = -(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(1 / 8))
    assert ideal < values["left 1"]["mask_loss"] < ideal + 0.12
    assert values["right 1"]["mask_loss"] == pytest.approx(values["left 1"]["mask_loss"], abs=0.02)
    assert values["joint 2"]["mask_loss"] < values["joint 1"]["mask_loss"] - 0.1
    assert values["mixed 8"]["mask_loss"] < values["joint 2"]["mask_loss"]


@pytest.fixture(scope="module")
def skewed():
    """Model fitted to a sequence with a skewed composition and no other structure."""
    rng = np.random.default_rng(5)
    return fit([rng.choice(4, 100_000, p=[0.4, 0.1, 0.1, 0.4]).astype(np.uint8)], length=128)


def test_composition_counts_both_strands():
    genome = np.random.default_rng(6).choice(4, 50_000, p=[0.7, 0.1, 0.1, 0.1]).astype(np.uint8)
    np.testing.assert_allclose(fit([genome], length=128).composition, [0.4, 0.1, 0.1, 0.4], atol=0.01)


@pytest.mark.parametrize("unknown", [MASK, N, PAD])
def test_predictions_without_known_neighbors_equal_the_composition(skewed, unknown):
    windows = np.full((1, 40), unknown)
    for name, p in skewed.predict(windows, np.array([0]), np.array([20])).items():
        if not name.startswith("mixed"):
            np.testing.assert_allclose(p[0], skewed.composition, err_msg=name)


@pytest.mark.parametrize("position", [0, 5, 39])
def test_predictions_are_distributions_that_ignore_their_own_base(skewed, position):
    windows = np.repeat(random_bases(40, 7)[None], 5, axis=0).astype(np.int64)
    windows[:, position] = [0, 1, 2, 3, MASK]
    for name, p in skewed.predict(windows, np.arange(5), np.full(5, position)).items():
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_array_equal(p, np.repeat(p[:1], 5, axis=0), err_msg=name)


def test_input_bases_update_predictions_by_the_masking_rule(skewed):
    # The true base is A. If the input shows A, it was kept or drawn at random; if it shows C, it was drawn at random.
    windows, labels = np.full((2, 9), MASK), np.full((2, 9), -100)
    windows[:, 4], labels[:, 4] = [0, 1], 0
    nats = score(skewed, windows, labels, Masking(mask=0.7, random=0.2)).nats["composition"]
    p = skewed.composition
    keep, draw = 0.1, 0.2 / 4
    assert nats[0] == pytest.approx(-math.log(p[0] * (keep + draw) / (p[0] * keep + draw)))
    assert nats[1] == pytest.approx(-math.log(p[0] * draw / (p[1] * keep + draw)))


def test_input_bases_lower_the_copy_loss(skewed):
    ids = np.random.default_rng(8).choice(4, 60_000, p=[0.4, 0.1, 0.1, 0.4]).astype(np.uint8)
    scores = score(skewed, *masked(ids))
    values = scores.summary()["composition"]
    assert values["copy_loss"] < values["mask_loss"] - 0.1
    assert values["mask_loss"] == pytest.approx(scores.entropy(), abs=0.01)
    share = scores.masked.mean()
    assert values["mlm_loss"] == pytest.approx(share * values["mask_loss"] + (1 - share) * values["copy_loss"])
    assert share == pytest.approx(0.8, abs=0.02)


def test_entropy_is_computed_over_masked_positions(skewed):
    windows, labels = np.zeros((1, 9), dtype=np.int64), np.full((1, 9), -100)
    windows[0, :2], labels[0, :2] = MASK, [0, 3]  # the three target positions below are not masked; all show A
    labels[0, 4:7] = 0
    assert score(skewed, windows, labels).entropy() == pytest.approx(math.log(2))


def test_summary_over_selected_positions(skewed):
    scores = score(skewed, *masked(random_bases(1280, 9)))
    first = scores.rows == 0
    expected = scores.nats["left 3"][first & scores.masked].mean()
    assert scores.summary(first)["left 3"]["mask_loss"] == pytest.approx(expected)
    assert math.isnan(scores.summary(np.zeros_like(first))["left 3"]["mask_loss"])


def test_fitting_is_deterministic():
    genome = random_bases(30_000, 10)
    once, again = (fit([genome], length=128) for _ in range(2))
    assert once.held_out == again.held_out


@pytest.mark.parametrize("train", [[], [random_bases(5, 0)], [np.full(5000, N, np.uint8)]])
def test_too_few_training_bases_are_rejected(train):
    with pytest.raises(UserError, match="too few"):
        fit(train, length=128)
