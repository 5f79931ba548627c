import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet.data.counter_rng import stream_key
from ldarnet.data.mixture import ROUND, Mixture, allocate_slots

quick = settings(max_examples=40, deadline=None)
all_shares = st.lists(st.floats(1e-6, 1), min_size=1, max_size=60).map(lambda shares: np.array(shares) / sum(shares))


@quick
@given(all_shares, st.integers(100, 5000))
def test_slots_are_proportional_to_shares(shares, slots):
    counts = allocate_slots(shares, slots)
    assert counts.sum() == slots
    assert counts.min() >= 1
    if (shares * slots >= 1).all():
        assert abs(counts - shares * slots).max() < 1


@quick
@given(all_shares, st.integers(0, 3 * ROUND))
def test_slots_before_a_slot_are_counted_correctly(shares, slot):
    mixture = Mixture(shares, 1024, stream_key("a"))
    dealt = mixture.source(np.arange(slot))
    sources = np.arange(len(shares))
    counted = mixture.before(sources, np.full(len(shares), slot))
    np.testing.assert_array_equal(counted, np.bincount(dealt, minlength=len(shares)))


@quick
@given(all_shares, st.integers(1, ROUND // 64))
def test_sources_are_spread_evenly(shares, rows):
    mixture = Mixture(shares, 64, stream_key("a"))
    share = mixture.slots / ROUND
    seen = mixture.before(np.arange(len(shares)), np.full(len(shares), rows * 64))
    assert (abs(seen - share * rows * 64) <= 1 + share * len(shares)).all()
