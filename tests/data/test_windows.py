import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.alphabet import encode, reverse_complement
from ldarnet.data import ShardSet, Windows
from ldarnet.data.segments import find_segments
from ldarnet.errors import UserError
from ldarnet.genome.sources import SequenceSource
from sharding.build import build

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sequences = st.lists(
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
@given(st.lists(sequences, min_size=1, max_size=3), st.integers(1, 12), st.integers(0, 6), st.integers(0, 9))
def test_windows_stay_inside_a_contig_and_out_of_long_runs_of_n(make_set, texts, length, max_n_run, seed):
    contigs = {f"c{number}": f"ACGTACGTACGT{text}" for number, text in enumerate(texts)}
    shards = make_set(contigs, block=16)
    windows = Windows(shards, "train", length, max_n_run=max_n_run, seed=seed)
    for epoch in range(2):
        taken = {name: np.zeros(len(text), int) for name, text in contigs.items()}
        for index in range(len(windows)):
            position = epoch * len(windows) + index
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


def test_each_segment_has_as_many_windows_as_fit(make_set):
    shards = make_set({"a": text_with(1005), "b": text_with(50), "c": text_with(300) + "N" * 20 + text_with(99)})
    assert len(Windows(shards, "train", 100, max_n_run=10)) == 10 + 0 + 3 + 0
    assert len(Windows(shards, "train", 100, max_n_run=20)) == 10 + 0 + 4


def test_segments_too_short_for_a_window_are_counted(make_set):
    contigs = {"a": text_with(1005), "b": text_with(50), "c": "N" * 20 + text_with(300) + "N" * 20 + text_with(99)}
    shards = make_set(contigs, {"valid": ["a"]})
    assert Windows(shards, "train", 100, max_n_run=10).skipped == (2, 50 + 99)
    assert Windows(shards, "train", 100, max_n_run=20).skipped == (1, 50)
    assert Windows(shards, "train", 50, max_n_run=20).skipped == (0, 0)
    assert Windows(shards, "valid", 100).skipped == (0, 0)


def test_windows_stay_inside_their_intervals(make_set):
    bed = "a\t10\t60\ttrain\na\t60\t95\tvalid\na\t100\t205\ttrain\n"
    shards = make_set({"a": text_with(300)}, bed=bed)
    windows = Windows(shards, "train", 25)
    starts = [windows.locate(position).start for position in range(4 * len(windows))]
    assert len(windows) == 2 + 4
    assert all(10 <= start <= 35 or 100 <= start <= 180 for start in starts)
    assert {Windows(shards, "valid", 25).locate(position).start for position in range(50)} <= set(range(60, 71))


def test_order_offset_and_strand_change_with_the_epoch_and_the_seed(make_set):
    shards = make_set({"a": text_with(10_030)})
    windows, other = Windows(shards, "train", 100, seed=1), Windows(shards, "train", 100, seed=2)
    size = len(windows)
    epochs = [[windows.locate(epoch * size + index) for index in range(size)] for epoch in range(3)]
    starts = [[key.start for key in epoch] for epoch in epochs]
    assert all(sorted(epoch) != epoch for epoch in starts)
    assert len({min(epoch) for epoch in starts}) > 1
    assert starts[0] != starts[1]
    assert starts[0] != [other.locate(index).start for index in range(size)]
    assert 0.35 < np.mean([key.reverse for epoch in epochs for key in epoch]) < 0.65


def test_reverse_complements_can_be_disabled(make_set):
    windows = Windows(make_set({"a": text_with(1000)}), "train", 10, reverse_complement=False)
    assert not any(windows.locate(position).reverse for position in range(200))


def test_random_access_equals_sequential_reading(make_set):
    shards = make_set({"a": text_with(3000), "b": text_with(700, 1)}, block=256)
    windows = Windows(shards, "train", 64)
    sequence = [windows.ids(position) for position in range(90)]
    for position in np.random.default_rng(0).permutation(90):
        np.testing.assert_array_equal(Windows(shards, "train", 64).ids(int(position)), sequence[position])
    np.testing.assert_array_equal(windows.batch(np.arange(90)), sequence)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(windows)).batch(np.arange(90)), sequence)


def test_the_order_does_not_depend_on_blocks_and_shards(make_set):
    contigs = {"a": text_with(3000), "b": text_with(700, 1)}
    one, other = (
        Windows(make_set(contigs, block=block, shard_size=size), "train", 64)
        for block, size in ((2**20, 2**20), (100, 60))
    )
    np.testing.assert_array_equal(one.batch(np.arange(80)), other.batch(np.arange(80)))
    changed = Windows(make_set({**contigs, "b": text_with(700, 2)}), "train", 64)
    assert [one.locate(index) for index in range(50)] != [changed.locate(index) for index in range(50)]


@pytest.mark.parametrize(
    ("split", "length", "max_n_run", "message"),
    [
        ("test", 10, 100, "no split 'test'; use one of train"),
        ("train", 101, 100, "has no window of 101 bases"),
        ("train", 60, 9, "has no window of 60 bases between runs of more than 9 N"),
        ("train", 0, 100, "must be from 1 to"),
        ("train", 10, -1, "at least 0"),
    ],
)
def test_a_split_without_a_window_is_rejected(make_set, split, length, max_n_run, message):
    shards = make_set({"a": text_with(45) + "N" * 10 + text_with(45)})
    with pytest.raises(UserError, match=message):
        Windows(shards, split, length, max_n_run=max_n_run)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Shard set of three species; the smallest has only a few windows."""
    folder = tmp_path_factory.mktemp("zoo")
    sources = []
    for seed, (name, bases) in enumerate((("yeast", 4000), ("fly", 16_000), ("mite", 300))):
        fasta = folder / f"{name}.fa"
        fasta.write_text(f">chr1\n{text_with(bases, seed)}\n>chr2\n{text_with(bases // 4, 10 + seed)}\n>tiny\nACGT\n")
        sources.append(SequenceSource(str(fasta), name))
    build(folder / "set", sources, contig_splits={"valid": ["yeast/chr2", "fly/chr2"]})
    return ShardSet.open(folder / "set")


def seen(windows: Windows, positions: range) -> list[tuple[str, int, str, int]]:
    keys = map(windows.locate, positions)
    return [(key.contig.split("/")[0], key.epoch, key.contig, key.start) for key in keys]


def test_without_weights_all_species_are_one_source(zoo):
    windows = Windows(zoo, "train", 100)
    assert [(source.name, source.windows, source.share) for source in windows.sources] == [("", 203, 1.0)]
    first = seen(windows, range(203))
    assert len(set(first)) == 203
    assert {name for name, *_ in first} == {"yeast", "fly", "mite"}
    assert windows.epochs(3 * 203 + 20) == {"": pytest.approx(3 + 20 / 203)}


def test_weights_set_the_shares_of_species_regardless_of_their_size(zoo):
    windows = Windows(zoo, "train", 100, weights={"fly": 1, "mite": 1, "yeast": 2})
    assert [(source.name, source.windows) for source in windows.sources] == [("yeast", 40), ("fly", 160), ("mite", 3)]
    assert [source.share for source in windows.sources] == pytest.approx([0.5, 0.25, 0.25], abs=1e-4)
    assert len(windows) == 203
    keys = seen(windows, range(4096))
    count = {name: sum(key[0] == name for key in keys) for name in ("yeast", "fly", "mite")}
    assert count["yeast"] == pytest.approx(2048, abs=20)
    assert count["mite"] == pytest.approx(1024, abs=20)
    epochs = windows.epochs(4096)
    for source in windows.sources:
        assert epochs[source.name] == count[source.name] / source.windows
        for epoch in range(int(epochs[source.name])):
            one = [key[2:] for key in keys if key[:2] == (source.name, epoch)]
            assert len(one) == len(set(one)) == source.windows


def test_species_without_a_weight_are_not_read(zoo):
    windows = Windows(zoo, "train", 100, weights={"yeast": 3})
    assert {name for name, *_ in seen(windows, range(100))} == {"yeast"}
    assert windows.skipped == (1, 4)
    assert len(windows) == 40


def test_temperature_interpolates_between_proportional_and_equal_shares(zoo):
    def shares(temperature):
        return [source.share for source in Windows(zoo, "train", 100, temperature=temperature).sources]

    sizes = np.array([40, 160, 3])
    assert shares(1) == pytest.approx(sizes / sizes.sum(), abs=1e-4)
    assert shares(2) == pytest.approx(np.sqrt(sizes) / np.sqrt(sizes).sum(), abs=1e-4)
    assert shares(1e6) == pytest.approx([1 / 3] * 3, abs=1e-4)
    # Species without a window of this length are not sampled.
    assert [source.name for source in Windows(zoo, "train", 1000, temperature=2).sources] == ["yeast", "fly"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"yest": 1}}, "weight for unknown species 'yest'; did you mean 'yeast'"),
        ({"weights": {"cow": 1}}, "use one of 'yeast', 'fly', 'mite'"),
        ({"weights": {"yeast": 1e-320, "fly": 1e300}}, "rounds to zero"),
        ({"temperature": 1e-5}, "rounds to zero"),
        ({"weights": {"yeast": 0}}, "weight 0 of species 'yeast': must be finite and above 0; to exclude a species"),
        ({"weights": {"yeast": float("inf")}}, "must be finite and above 0"),
        ({"weights": {"yeast": 1, "fly": -2}}, "weight -2 of species 'fly'"),
        ({"weights": {}}, "weights: empty; add at least one species"),
        (
            {"weights": {"yeast": 1}, "temperature": 2},
            "weights and temperature are mutually exclusive; use one of them",
        ),
        ({"temperature": 0}, "temperature 0: must be finite and above 0"),
        ({"weights": {"yeast": 1, "mite": 1}, "length": 500}, "no window of 500 bases from 'mite'"),
        ({"weights": {"mite": 1}, "split": "valid"}, "split 'valid'"),
    ],
)
def test_invalid_mixtures_are_rejected(zoo, options, message):
    with pytest.raises(UserError, match=message):
        Windows(zoo, **{"split": "train", "length": 100} | options)


def test_windows_stay_out_of_excluded_intervals(tmp_path):
    (tmp_path / "in.fa").write_text(f">a\n{text_with(1000)}\n>b\n{text_with(500, 1)}\n")
    (tmp_path / "out.bed").write_text("a\t200\t260\na\t900\t1000\nb\t0\t100\n")
    build(tmp_path / "set", [tmp_path / "in.fa"], exclude=[tmp_path / "out.bed"])
    windows = Windows(ShardSet.open(tmp_path / "set"), "train", 30)
    assert len(windows) == 200 // 30 + 640 // 30 + 400 // 30
    for position in range(3 * len(windows)):
        key = windows.locate(position)
        begins = {"a": (range(171), range(260, 871)), "b": (range(100, 471),)}
        assert any(key.start in allowed for allowed in begins[key.contig])


@quick
@given(st.data())
def test_segments_match_a_plain_loop(make_set, data):
    texts = data.draw(st.lists(sequences, min_size=1, max_size=4))
    shards = make_set({f"c{number}": f"A{text}" for number, text in enumerate(texts)}, bed=_intervals(data, texts))
    length, max_n_run = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 6))
    expected, skipped = [], [0, 0]
    for contig, begin, end in shards.index.splits["train"].tolist():
        text, edges = f"A{texts[contig]}", [begin]
        for start, stop in runs_of_n(text):
            if stop - start > max_n_run and start < end and stop > begin:
                edges += [max(start, begin), min(stop, end)]
        for start, stop in zip(edges[::2], [*edges[1::2], end], strict=True):
            if stop - start >= length:
                expected.append((contig, start, (stop - start) // length, (stop - start) % length))
            elif stop > start:
                skipped = [skipped[0] + 1, skipped[1] + stop - start]
    if not expected:
        with pytest.raises(UserError, match="has no window"):
            find_segments(shards, "train", length, max_n_run)
        return
    found = find_segments(shards, "train", length, max_n_run)
    columns = (found.contig, found.start, np.diff(found.first), found.slack)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert list(found.skipped) == skipped


def _intervals(data: st.DataObject, texts: list[str]) -> str:
    """BED text that cuts each contig at a few positions and omits every third part."""
    lines = []
    for number, text in enumerate(texts):
        cuts = sorted(data.draw(st.sets(st.integers(1, len(text)), max_size=4)))
        edges = [0, *cuts, len(text) + 1]
        lines += [
            f"c{number}\t{start}\t{stop}\ttrain\n"
            for index, (start, stop) in enumerate(pairwise(edges))
            if index % 3 != 1
        ]
    return "".join(lines)
