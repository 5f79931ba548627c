import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.alphabet import MASK, PAD, N
from ldarnet.data import Masking
from ldarnet.errors import UserError

IDS = np.random.default_rng(0).integers(0, 4, (64, 4001)).astype(np.uint8)
POSITIONS = np.arange(64)


def test_rates_match_the_settings():
    inputs, labels = Masking(rate=0.15, mask=0.8, random=0.1).apply(IDS, "set", POSITIONS)
    target = labels != -100
    shown = inputs[target]
    kept = shown == labels[target]
    assert target.mean() == pytest.approx(0.15, abs=0.003)
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=0.01)
    assert kept.mean() == pytest.approx(0.1 + 0.1 / 4, abs=0.007)
    drawn = shown[(shown != MASK) & ~kept]
    assert np.bincount(drawn, minlength=4)[:4] / len(drawn) == pytest.approx([0.25] * 4, abs=0.03)
    np.testing.assert_array_equal(labels[target], IDS[target])
    np.testing.assert_array_equal(inputs[~target], IDS[~target])


def test_target_positions_have_no_pattern():
    _, labels = Masking(rate=0.5).apply(IDS, "set", POSITIONS)
    target = (labels != -100).astype(float)
    assert abs(target.mean(0) - 0.5).max() < 0.35
    for shift in (1, 2):
        assert abs(np.corrcoef(target[:, shift:].ravel(), target[:, :-shift].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(target[0], target[1])[0, 1]) < 0.06


def test_n_and_padding_are_never_masked_targets_or_drawn():
    ids = IDS.copy()
    ids[:, ::3], ids[:, 1::3] = N, PAD
    inputs, labels = Masking(rate=1, mask=0, random=1).apply(ids, "set", POSITIONS)
    np.testing.assert_array_equal(inputs[ids >= N], ids[ids >= N])
    assert (labels[ids >= N] == -100).all()
    np.testing.assert_array_equal(labels[ids < N], ids[ids < N])
    assert set(np.unique(inputs[ids < N])) == {0, 1, 2, 3}


def test_a_mask_depends_only_on_content_seed_stream_and_position():
    masking = Masking(seed=3)
    inputs, labels = masking.apply(IDS, "set", POSITIONS)
    for row in (0, 17, 63):
        alone = masking.apply(IDS[row : row + 1], "set", POSITIONS[row : row + 1])
        np.testing.assert_array_equal(alone[0][0], inputs[row])
        np.testing.assert_array_equal(alone[1][0], labels[row])
    others = (
        Masking(seed=4).apply(IDS, "set", POSITIONS),
        masking.apply(IDS, "other", POSITIONS),
        masking.apply(IDS, "set", POSITIONS, stream="validation"),
        masking.apply(IDS, "set", POSITIONS + 64),
    )
    for _, other in others:
        both = ((labels != -100) & (other != -100)).mean()
        assert both == pytest.approx(0.15**2, abs=0.003)


def test_rates_of_zero_and_one():
    inputs, labels = Masking(rate=0).apply(IDS, "set", POSITIONS)
    np.testing.assert_array_equal(inputs, IDS)
    assert (labels == -100).all()
    inputs, labels = Masking(rate=1, mask=1, random=0).apply(IDS, "set", POSITIONS)
    assert (inputs == MASK).all()
    assert (inputs.dtype, labels.dtype) == (np.uint8, np.int8)


@pytest.mark.parametrize("options", [{"rate": 1.1}, {"mask": -0.1}, {"mask": 0.8, "random": 0.3}, {"span": 0}])
def test_probabilities_out_of_range_are_rejected(options):
    with pytest.raises(UserError, match="must be"):
        Masking(**options)


@pytest.mark.parametrize("length", [1, 3, 2**15 - 1, 2**16 + 2])
def test_a_mask_does_not_depend_on_the_batch(length):
    ids = np.random.default_rng(1).integers(0, 5, (3, length)).astype(np.uint8)
    together = Masking(rate=0.5).apply(ids, "set", np.arange(3))
    for row in range(3):
        alone = Masking(rate=0.5).apply(ids[row : row + 1], "set", np.array([row]))
        for whole, part in zip(together, alone, strict=True):
            np.testing.assert_array_equal(whole[row], part[0])


def test_a_mask_never_changes():
    """If the masks changed, older runs could not resume exactly."""
    inputs, labels = Masking(rate=0.5).apply(np.zeros((1, 40), dtype=np.uint8), "set", np.array([7]))
    assert "".join(map(str, inputs[0])) == INPUTS
    assert np.flatnonzero(labels[0] == 0).tolist() == SCORED
    inputs, labels = Masking(rate=0.5, span=4).apply(np.zeros((1, 40), dtype=np.uint8), "set", np.array([7]))
    assert "".join(map(str, inputs[0])) == SPAN_INPUTS
    assert np.flatnonzero(labels[0, ::4] == 0).tolist() == [span for span in SCORED if span < 10]


def test_masks_of_spans_have_the_rates_of_the_settings():
    inputs, labels = Masking(rate=0.3, span=6).apply(IDS, "set", POSITIONS)
    complete = 4001 // 6 * 6
    target, shown = (values[:, :complete].reshape(-1, 6) for values in (labels != -100, inputs))
    bases = IDS[:, :complete].reshape(-1, 6)
    assert (target.all(1) == target.any(1)).all()
    scored = target.all(1)
    assert scored.mean() == pytest.approx(0.3, abs=0.01)
    masked, same = (shown[scored] == MASK).all(1), (shown[scored] == bases[scored]).all(1)
    assert masked.mean() == pytest.approx(0.8, abs=0.01)
    assert same.mean() == pytest.approx(0.1, abs=0.01)
    drawn = shown[scored][~masked & ~same]
    assert np.bincount(drawn.ravel(), minlength=4) / drawn.size == pytest.approx([0.25] * 4, abs=0.03)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.1


@given(
    span=st.integers(1, 12),
    rows=st.integers(1, 4).flatmap(
        lambda length: st.lists(st.lists(st.integers(0, PAD), min_size=9 * length, max_size=9 * length), min_size=2)
    ),
    rate=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_spans_are_aligned_complete_and_drawn_independently_of_their_bases(span, rows, rate):
    ids = np.array(rows, dtype=np.uint8)
    masking = Masking(rate=rate, span=span)
    inputs, labels = masking.apply(ids, "set", np.arange(len(ids)))
    anything = masking.apply(np.zeros_like(ids), "set", np.arange(len(ids)))[1] == 0
    for start in range(0, ids.shape[1], span):
        window, scored = ids[:, start : start + span], labels[:, start : start + span] != -100
        known = (window < N).all(1) & (window.shape[1] == span)
        np.testing.assert_array_equal(scored.any(1), anything[:, start] & known)
        np.testing.assert_array_equal(scored.all(1), scored.any(1))
        if rate == 1:
            np.testing.assert_array_equal(scored.all(1), known)
        np.testing.assert_array_equal(
            (inputs[:, start : start + span] == MASK).any(1) & scored.any(1),
            (inputs[:, start : start + span] == MASK).all(1) & scored.any(1),
        )
    np.testing.assert_array_equal(labels[labels != -100], ids[labels != -100])
    np.testing.assert_array_equal(inputs[labels == -100], ids[labels == -100])


INPUTS = "1050050000500555555050050000005005505005"
SPAN_INPUTS = "1123000055550000301155550000000020010000"
SCORED = [0, 2, 4, 5, 8, 10, 13, 14, 15, 16, 17, 18, 19, 20, 23, 27, 30, 33, 34, 36, 39]


@pytest.mark.parametrize("span", [4, 6])
@pytest.mark.parametrize("length", [1, 2**15 - 1, 2**16 + 2])
def test_a_span_mask_does_not_depend_on_the_batch(length, span):
    ids = np.random.default_rng(1).integers(0, 4, (3, length)).astype(np.uint8)
    together = Masking(rate=0.5, span=span).apply(ids, "set", np.arange(3))
    for row in range(3):
        alone = Masking(rate=0.5, span=span).apply(ids[row : row + 1], "set", np.array([row]))
        for whole, part in zip(together, alone, strict=True):
            np.testing.assert_array_equal(whole[row], part[0])
