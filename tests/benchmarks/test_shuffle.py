"""Metrics of the shuffle benchmark."""

import numpy as np
import pytest

from benchmarks import shuffle
from benchmarks.synthetic import synthetic_set
from ldarnet.data import ShardSet, Windows


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    synthetic_set(folder, bases=12 * 10**9, species=20)
    return Windows(ShardSet.open(folder), "train", 2**15)


def test_near_pairs_start_within_a_megabase():
    bases = np.random.default_rng(0).integers(0, 3 * 10**7, 200)
    near = sum(abs(a - b) <= shuffle.NEAR for number, a in enumerate(bases) for b in bases[:number])
    assert shuffle._near(bases) == near


def test_uncached_blocks_are_counted(monkeypatch):
    monkeypatch.setattr(shuffle, "CACHE_BYTES", 20)
    size = np.array([10, 10, 10, 10])
    assert list(shuffle._missed([0, 1, 0, 2, 0, 1, 3, 3], size)) == [0, 1, 2, 1, 3]


@pytest.mark.parametrize("ranks", [1, 4])
def test_shuffle_buffer_yields_every_window_at_most_once(windows, ranks):
    order = shuffle.buffer(windows, ranks, 8, 2**14)
    numbers = order(np.arange(2**14))
    assert len(np.unique(numbers)) == 2**14
    assert abs(np.corrcoef(numbers[::ranks][:-1], numbers[::ranks][1:])[0, 1]) < 0.9


def test_blocks_of_windows_match_the_reader(windows):
    window_map, numbers = shuffle.WindowMap.of(windows), np.arange(0, len(windows), 991)
    contig, start = windows.segments.locate(numbers, windows.length)
    blocks = [windows.shards.blocks_of(contig[[row]], start[[row]], windows.length) for row in range(len(numbers))]
    first, last = window_map.blocks(numbers)
    assert list(zip(first, last, strict=True)) == [(each[0], each[-1]) for each in blocks]


def test_lanes_mix_like_a_uniform_order_and_read_little(windows):
    mixed, read = shuffle.measure(windows, Windows(windows.shards, "train", 2**15, temperature=2), [1, 4], 16, 2**15)
    near = {row[0]: float(row[1]) for row in mixed}
    assert near["lanes"] <= near["uniform"] < near["buffer, 4 ranks"] < near["buffer, 1 rank"]
    reads = {row[0]: float(row[3]) for row in read}
    for world in (1, 4):
        assert reads[f"lanes, {world}"] < 4 < reads[f"uniform, {world}"]


def test_results_file_is_written(tmp_path):
    arguments = ["--bases", "0.6", "--length", "8192", "--ranks", "2", "--count", "16384"]
    shuffle.main([*arguments, "--out", str(tmp_path), "--note", "Tried."])
    (file,) = tmp_path.glob("*-shuffle.md")
    text = file.read_text()
    assert all(part in text for part in ("Tried.", "| lanes, mixture |", "| uniform, 2 |", "--bases 0.6"))
