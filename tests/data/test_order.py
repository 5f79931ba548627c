import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet.data.counter_rng import stream_key
from ldarnet.data.mixture import ROUND
from ldarnet.data.order import LANES, Shuffle

quick = settings(max_examples=40, deadline=None)
MEGABASE = 2**20


def one_source(windows: int, length: int, name: str = "a") -> Shuffle:
    return Shuffle(np.array([windows]), length, stream_key(name), np.ones(1))


def mixture(windows: list[int], shares: list[float], length: int = 4096) -> Shuffle:
    return Shuffle(np.array(windows), length, stream_key("mixture"), np.array(shares) / sum(shares))


# Covers sets that are permuted window by window and sets that are read in pieces.
@quick
@given(st.integers(1, 20_000), st.sampled_from([16, 2**15, 2**17, 2**20, 2**24]), st.integers(0, 3))
def test_one_source_has_every_window_once_per_epoch(windows, length, epoch):
    order = one_source(windows, length)
    source, epochs, numbers = order.locate(np.arange(epoch * windows, (epoch + 1) * windows))
    assert not source.any()
    assert (epochs == epoch).all()
    np.testing.assert_array_equal(np.sort(numbers), np.arange(windows))


@quick
@given(
    st.lists(st.tuples(st.integers(1, 4000), st.floats(0.01, 1)), min_size=2, max_size=5),
    st.sampled_from([16, 2**17, 2**18]),
    st.integers(1, 2**18),
)
def test_every_source_of_a_mixture_has_every_window_once_per_epoch(sources, length, count):
    windows, shares = zip(*sources, strict=True)
    order = mixture(list(windows), list(shares), length)
    source, epoch, number = order.locate(np.arange(count))
    for name in range(len(windows)):
        mine = source == name
        np.testing.assert_array_equal(epoch[mine], np.arange(mine.sum()) // windows[name])
        last = epoch[mine].max(initial=0)
        for finished in (0, last // 2, last - 1):
            if 0 <= finished < last:
                np.testing.assert_array_equal(np.sort(number[mine][epoch[mine] == finished]), np.arange(windows[name]))
        unfinished = number[mine][epoch[mine] == last]
        assert len(np.unique(unfinished)) == len(unfinished)
    np.testing.assert_array_equal(order.taken(count), np.bincount(source, minlength=len(windows)))


@quick
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=40), st.integers(0, 10**9))
def test_shares_hold_in_every_row_of_slots(shares, row):
    order = mixture([10**6] * len(shares), shares, 2**16)
    target = np.array(shares) / sum(shares)
    source, _, _ = order.locate(row * 16 * LANES + np.arange(16 * LANES))
    seen = np.bincount(source, minlength=len(shares)) / 16
    assert (abs(seen - order.shares * LANES) <= 2 * (1 + order.shares * len(shares))).all()
    assert abs(order.shares - target).max() <= 1 / ROUND


def test_shares_are_exact_over_a_round():
    order, windows = mixture([10**6] * 3, [5, 3, 0.001], 2**18), 4 * ROUND  # 4 windows per slot
    taken = order.taken(5 * windows) - order.taken(4 * windows)
    np.testing.assert_array_equal(taken, np.round(order.shares * windows))
    assert taken.min() >= 4


def test_a_position_does_not_depend_on_its_batch():
    for order in (one_source(10**6, 4096), mixture([10**6, 70, 10**5], [1, 2, 0.1])):
        positions = np.random.default_rng(0).integers(0, 10**7, 50)
        together = np.stack(order.locate(positions))
        for column, position in enumerate(positions):
            alone = np.stack(order.locate(np.array([position])))
            np.testing.assert_array_equal(alone[:, 0], together[:, column])


@pytest.mark.parametrize("windows", [300_000, 4 * 10**6, 40 * 10**6])
def test_consecutive_positions_are_far_apart_and_lanes_read_whole_pieces(windows):
    length = 4096
    order = one_source(windows, length)
    _, _, numbers = order.locate(np.arange(64 * LANES) + windows // 3)
    rows = numbers.reshape(64, LANES)
    # The positions of a row come from distant loci: hardly any two are within a megabase.
    gaps = np.diff(np.sort(rows, axis=1), axis=1) * length
    assert (gaps < MEGABASE).mean() < 1.5 * LANES * MEGABASE / (windows * length) + 0.01
    # The 64 windows of a lane are within a few megabases.
    megabases = [len(np.unique(rows[:, lane] * length // MEGABASE)) for lane in range(0, LANES, 64)]
    assert np.mean(megabases) < 4


def test_pieces_and_order_change_every_epoch():
    order = one_source(400_000, 4096)
    lanes = [order.locate(np.arange(64) * LANES + epoch * 400_000)[2] for epoch in range(2)]
    assert len(np.intersect1d(*lanes)) < 8


def test_a_small_source_beside_a_large_one_is_permuted_window_by_window():
    order = mixture([10**7, 1000], [9, 1])
    source, epoch, number = order.locate(np.arange(2 * LANES * 64))
    small = number[(source == 1) & (epoch == 0)]
    assert abs(np.corrcoef(small[:-1], small[1:])[0, 1]) < 0.15
    assert (abs(np.diff(small)) > 3).mean() > 0.95


def test_the_order_never_changes():
    """If the order changed, older runs could not resume exactly."""
    positions = np.array([0, 1, 1023, 1024, 10**6, 10**9])
    assert one_source(10**6, 4096).locate(positions)[2].tolist() == ONE
    source, epoch, number = mixture([10**6, 70, 10**5], [1, 2, 0.1]).locate(positions)
    assert [source.tolist(), epoch.tolist(), number.tolist()] == SEVERAL


ONE = [643047, 551730, 955313, 643030, 958658, 870491]
SEVERAL = [[1, 0, 1, 1, 1, 1], [0, 0, 9, 9, 9217, 9216527], [52, 485117, 41, 15, 18, 18]]
