import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.alphabet import encode, reverse_complement
from ldarnet.data import Windows
from ldarnet.errors import UserError

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
letters = st.lists(
    st.one_of(
        st.integers(1, 60).map(lambda count: ("ACGT" * count)[:count]),
        st.integers(1, 12).map(lambda count: "N" * count),
        st.text("ACGTRYacgtn", min_size=1, max_size=30),
    ),
    min_size=1,
    max_size=8,
).map("".join)


def text_with(bases: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), bases))


@quick
@given(st.lists(letters, min_size=1, max_size=3), st.integers(1, 12), st.integers(0, 6), st.integers(0, 9))
def test_windows_stay_inside_a_contig_and_out_of_long_runs_of_n(make_set, texts, length, max_n_run, seed):
    contigs = {f"c{number}": f"ACGTACGTACGT{text}" for number, text in enumerate(texts)}
    shards = make_set(contigs, block=16)
    windows = Windows(shards, "train", length, max_n_run=max_n_run, seed=seed)
    for epoch in range(2):
        taken = {name: np.zeros(len(text), int) for name, text in contigs.items()}
        for place in range(len(windows)):
            position = epoch * len(windows) + place
            key = windows.locate(position)
            text = contigs[key.contig][key.start : key.start + length]
            assert key.epoch == epoch
            assert len(text) == length
            taken[key.contig][key.start : key.start + length] += 1
            ids = encode(text)
            np.testing.assert_array_equal(windows.ids(position), reverse_complement(ids) if key.reverse else ids)
        for name, text in contigs.items():
            assert taken[name].max() <= 1
            for start, stop in runs_of_n(text):
                if stop - start > max_n_run:
                    assert not taken[name][start:stop].any()


def runs_of_n(text: str) -> list[tuple[int, int]]:
    is_n = np.concatenate(([0], encode(text) == 4, [0])).astype(int)
    return list(zip(np.flatnonzero(np.diff(is_n) == 1), np.flatnonzero(np.diff(is_n) == -1), strict=True))


def test_each_stretch_gives_as_many_windows_as_fit(make_set):
    shards = make_set({"a": text_with(1005), "b": text_with(50), "c": text_with(300) + "N" * 20 + text_with(99)})
    assert len(Windows(shards, "train", 100, max_n_run=10)) == 10 + 0 + 3 + 0
    assert len(Windows(shards, "train", 100, max_n_run=20)) == 10 + 0 + 4


def test_what_is_too_short_for_a_window_is_counted(make_set):
    contigs = {"a": text_with(1005), "b": text_with(50), "c": "N" * 20 + text_with(300) + "N" * 20 + text_with(99)}
    shards = make_set(contigs, {"valid": ["a"]})
    assert Windows(shards, "train", 100, max_n_run=10).left_out == (2, 50 + 99)
    assert Windows(shards, "train", 100, max_n_run=20).left_out == (1, 50)
    assert Windows(shards, "train", 50, max_n_run=20).left_out == (0, 0)
    assert Windows(shards, "valid", 100).left_out == (0, 0)


def test_windows_stay_inside_their_intervals(make_set):
    bed = "a\t10\t60\ttrain\na\t60\t95\tvalid\na\t100\t205\ttrain\n"
    shards = make_set({"a": text_with(300)}, bed=bed)
    windows = Windows(shards, "train", 25)
    starts = [windows.locate(position).start for position in range(4 * len(windows))]
    assert len(windows) == 2 + 4
    assert all(10 <= start <= 35 or 100 <= start <= 180 for start in starts)
    assert {Windows(shards, "valid", 25).locate(position).start for position in range(50)} <= set(range(60, 71))


def test_order_phase_and_strand_change_from_epoch_to_epoch_and_with_the_seed(make_set):
    shards = make_set({"a": text_with(10_030)})
    windows, other = Windows(shards, "train", 100, seed=1), Windows(shards, "train", 100, seed=2)
    size = len(windows)
    epochs = [[windows.locate(epoch * size + place) for place in range(size)] for epoch in range(3)]
    starts = [[key.start for key in epoch] for epoch in epochs]
    assert all(sorted(epoch) != epoch for epoch in starts)
    assert len({min(epoch) for epoch in starts}) > 1
    assert starts[0] != starts[1]
    assert starts[0] != [other.locate(place).start for place in range(size)]
    assert 0.35 < np.mean([key.reverse for epoch in epochs for key in epoch]) < 0.65


def test_the_forward_strand_alone_can_be_asked_for(make_set):
    windows = Windows(make_set({"a": text_with(1000)}), "train", 10, reverse_complement=False)
    assert not any(windows.locate(position).reverse for position in range(200))


def test_any_position_in_any_order_gives_what_reading_in_sequence_gives(make_set):
    shards = make_set({"a": text_with(3000), "b": text_with(700, 1)}, block=256)
    windows = Windows(shards, "train", 64)
    sequence = [windows.ids(position) for position in range(90)]
    for position in np.random.default_rng(0).permutation(90):
        np.testing.assert_array_equal(Windows(shards, "train", 64).ids(int(position)), sequence[position])
    np.testing.assert_array_equal(windows.batch(np.arange(90)), sequence)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(windows)).batch(np.arange(90)), sequence)


def test_the_order_does_not_depend_on_how_the_set_was_cut(make_set):
    contigs = {"a": text_with(3000), "b": text_with(700, 1)}
    one, other = (
        Windows(make_set(contigs, block=block, shard_size=size), "train", 64)
        for block, size in ((2**20, 2**20), (100, 60))
    )
    np.testing.assert_array_equal(one.batch(np.arange(80)), other.batch(np.arange(80)))
    changed = Windows(make_set({**contigs, "b": text_with(700, 2)}), "train", 64)
    assert [one.locate(place) for place in range(50)] != [changed.locate(place) for place in range(50)]


@pytest.mark.parametrize(
    ("split", "length", "max_n_run", "message"),
    [
        ("test", 10, 100, "no split 'test'; it holds train"),
        ("train", 101, 100, "has no window of 101 bases"),
        ("train", 60, 9, "has no window of 60 bases between runs of more than 9 N"),
        ("train", 0, 100, "at least 1"),
        ("train", 10, -1, "at least 0"),
    ],
)
def test_a_split_without_a_window_is_refused(make_set, split, length, max_n_run, message):
    shards = make_set({"a": text_with(45) + "N" * 10 + text_with(45)})
    with pytest.raises(UserError, match=message):
        Windows(shards, split, length, max_n_run=max_n_run)
