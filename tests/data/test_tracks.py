"""Chunk boundaries from BED and bigWig files, at the coordinates of windows."""

import gzip
import math
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet.data import Masking, Windows, training_steps
from ldarnet.data.tracks import BIGWIG_MAGIC, BedTrack, BigWigTrack, _oriented, open_track
from ldarnet.data.windows import Locations
from ldarnet.errors import UserError

LENGTHS = {"one": 400, "two": 300}
VALUES = {name: np.random.default_rng(length).random(length).round(2) for name, length in LENGTHS.items()}
VALUES["one"][100:180] = np.nan
RATIO = 4.0


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    from ldarnet.data import ShardSet
    from sharding.build import build

    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    sequences = {name: "".join(rng.choice([*"ACGT"], length)) for name, length in LENGTHS.items()}
    (folder / "in.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in sequences.items()))
    build(folder / "set", [folder / "in.fa"])
    return ShardSet.open(folder / "set")


@pytest.fixture
def bed(tmp_path):
    def write(text):
        (tmp_path / "track.bed").write_text(text)
        return tmp_path / "track.bed"

    return write


@pytest.fixture
def stub(monkeypatch):
    """Module in place of pyBigWig that serves `VALUES`."""

    class Reader:
        def chroms(self):
            return dict(LENGTHS)

        def values(self, name, start, stop, numpy):
            return VALUES[name][start:stop].astype(np.float32)

    module = ModuleType("pyBigWig")
    module.open = lambda path: Reader()
    monkeypatch.setitem(sys.modules, "pyBigWig", module)
    return module


@pytest.fixture
def bigwig(tmp_path):
    path = tmp_path / "track.bw"
    path.write_bytes(min(BIGWIG_MAGIC) + bytes(100))
    return path


def places(shards, *rows):
    """Locations of windows, given as (contig name, start, reverse)."""
    contigs = np.array([shards.index.number(name) for name, _, _ in rows])
    starts, reverse = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    return Locations(np.zeros(len(rows), dtype=np.int64), contigs, starts, reverse)


def marks(boundaries):
    return [row.nonzero()[0].tolist() for row in boundaries]


def test_chunks_begin_at_interval_starts_and_ends_on_both_strands(shards, bed):
    track = open_track(bed("# x\none\t10\t20\none\t15\t33\nother\t1\t5\n"), shards, RATIO)
    rows = [("one", 5, False), ("one", 5, True), ("one", 15, False), ("one", 15, True), ("two", 5, False)]
    found = track(np.zeros((5, 20), dtype=np.uint8), places(shards, *rows))
    # Before bases 5, 10, 15 and 20 of a window from 5 to 25; read from the right, these are 20, 15, 10 and 5.
    assert marks(found) == [[0, 5, 10, 15], [0, 5, 10, 15], [0, 5, 18], [0, 2, 15], [0]]


@given(st.integers(2, 40), st.data())
def test_the_reverse_complement_has_the_same_chunks_in_reverse_order(length, data):
    row = np.array(data.draw(st.lists(st.booleans(), min_size=length + 1, max_size=length + 1)))
    forward, reverse = _oriented(np.stack([row, row]), np.array([False, True]))
    sizes = [np.diff([*mask.nonzero()[0], length]).tolist() for mask in (forward, reverse)]
    assert sizes[0] == sizes[1][::-1]


def test_training_windows_have_the_boundaries_of_their_coordinates(shards, bed):
    borders = {"one": [30, 37, 200, 399], "two": [1, 150, 151]}
    text = "".join(f"{name}\t{at}\t{at + 1}\n" for name, starts in borders.items() for at in starts)
    windows = Windows(shards, "train", 20)
    options = {"micro_batch": 5, "accumulation": 1, "rank": 0, "world": 1, "first_step": 0, "last_step": 6}
    seen = 0
    for batch, workers in (
        (batch, n)
        for n in (0, 1)
        for (batch,) in training_steps(windows, Masking(), **options, workers=n, boundaries=BedTrack(bed(text), shards))
    ):
        for row, mask in enumerate(batch.boundaries.numpy()):
            window = windows.locate(batch.first_position + row)
            expected = {0}
            for at in borders[window.contig]:
                for border in (at, at + 1):
                    if 0 < (place := border - window.start) < 20:
                        expected.add(20 - place if window.reverse else place)
            assert mask.nonzero()[0].tolist() == sorted(expected)
            seen += len(expected) > 1 and window.reverse and workers == 1
    assert seen


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(LENGTHS)), st.integers(0, 270), st.integers(8, 30), st.floats(1.5, 9))
def test_the_highest_values_of_a_window_begin_chunks(shards, name, start, length, ratio):
    track = BigWigTrack.__new__(BigWigTrack)
    track._ratio, track._names = ratio, {shards.index.number(name): name}
    track._values = lambda contig, begin, stop: VALUES[contig][begin:stop]
    ids = np.zeros((2, length), dtype=np.uint8)
    forward, reverse = track(ids, places(shards, (name, start, False), (name, start, True)))
    values = VALUES[name][start + 1 : start + length]
    known = int((~np.isnan(values)).sum())
    assert forward.sum() == min(math.ceil(length / ratio), known + 1) and forward[0]
    chosen = forward[1:]
    assert not np.isnan(values[chosen]).any()
    rest = values[~chosen & ~np.isnan(values)]
    if chosen.any() and len(rest):
        assert values[chosen].min() >= rest.max()
    sizes = [np.diff([*mask.nonzero()[0], length]).tolist() for mask in (forward, reverse)]
    assert sizes[0] == sizes[1][::-1]


def test_a_bigwig_file_is_recognized_and_may_be_pickled(shards, bigwig, stub):
    track = open_track(bigwig, shards, RATIO)
    ids, at = np.zeros((2, 40), dtype=np.uint8), places(shards, ("one", 10, False), ("two", 30, True))
    found = track(ids, at)
    assert found.sum(1).tolist() == [10, 10]
    assert np.array_equal(pickle.loads(pickle.dumps(track))(ids, at), found)


def test_names_are_translated(shards, bed, bigwig, stub, tmp_path):
    names = tmp_path / "names.tsv"
    names.write_text("1\tone\n")
    at = places(shards, ("one", 0, False))
    track = BedTrack(bed("1\t4\t6\n"), shards, names)
    assert marks(track(np.zeros((1, 10), dtype=np.uint8), at)) == [[0, 4, 6]]
    stub.open = lambda path: type("Reader", (), {"chroms": lambda self: {"1": 400}})()
    assert BigWigTrack(bigwig, shards, RATIO, {"1": "one"})._names == {shards.index.number("one"): "1"}


def test_files_of_another_assembly_are_refused(shards, bed, bigwig, stub):
    with pytest.raises(UserError, match=r"track.bed: line 1: one:390-401 extends beyond the contig"):
        open_track(bed("one\t390\t401\n"), shards, RATIO)
    with pytest.raises(UserError, match=r"track.bed: no contig of .*; use the contig names .* data.boundaries_contigs"):
        open_track(bed("chr1\t0\t4\n"), shards, RATIO)
    stub.open = lambda path: type("Reader", (), {"chroms": lambda self: {"one": 401}})()
    with pytest.raises(UserError, match=r"track.bw: one has 401 bases, but 400 in .*; is it from another assembly"):
        open_track(bigwig, shards, RATIO)


def test_a_missing_package_is_one_error_with_the_command_that_installs_it(shards, bigwig, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyBigWig", None)
    with pytest.raises(UserError, match=r"track.bw needs pyBigWig: pip install 'ldarnet\[genomics\]'"):
        open_track(bigwig, shards, RATIO)


def test_a_damaged_file_is_one_error(shards, bigwig, stub):
    def fail(path):
        raise RuntimeError("Received an error during file opening!")

    stub.open = fail
    with pytest.raises(UserError, match=r"track.bw: damaged \(Received an error"):
        open_track(bigwig, shards, RATIO)


def test_a_compressed_bed_file_is_read(shards, tmp_path):
    (tmp_path / "track.bed.gz").write_bytes(gzip.compress(b"one\t4\t6\n"))
    track = open_track(tmp_path / "track.bed.gz", shards, RATIO)
    assert marks(track(np.zeros((1, 10), dtype=np.uint8), places(shards, ("one", 0, False)))) == [[0, 4, 6]]


def test_a_real_bigwig_file_gives_its_values(shards, tmp_path):
    package = pytest.importorskip("pyBigWig")
    path = tmp_path / "real.bw"
    with package.open(str(path), "w") as file:
        file.addHeader(list(LENGTHS.items()))
        for name, values in VALUES.items():
            known = np.flatnonzero(~np.isnan(values))
            file.addEntries(
                [name] * len(known), known.tolist(), ends=(known + 1).tolist(), values=values[known].tolist()
            )
    track = open_track(path, shards, RATIO)
    assert isinstance(track, BigWigTrack)
    for name, length in LENGTHS.items():
        np.testing.assert_array_equal(track._values(name, 0, length), VALUES[name].astype(np.float32))
    windows = Windows(shards, "train", 20)
    options = {"micro_batch": 5, "accumulation": 1, "rank": 0, "world": 1, "first_step": 0, "last_step": 3}
    steps = [
        [
            batch.boundaries.tolist()
            for (batch,) in training_steps(windows, Masking(), **options, workers=workers, boundaries=track)
        ]
        for workers in (0, 2)
    ]
    assert steps[0] == steps[1]
