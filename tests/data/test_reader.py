import errno
import logging
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.alphabet import N
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.io.storage import DamagedError
from tests.support.sample_set import CONTIGS, change_block, damage, every_window, everything


@pytest.fixture
def local(make_set):
    """Shard set of 31 blocks in several shards."""
    return make_set(CONTIGS, block=100, shard_size=1200)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_windows_equal_single_reads(local, data):
    length = data.draw(st.sampled_from([0, 1, 2, 3, 4, 5, 64, 99, 100, 101, 350, 999, 2000]))
    fitting = [number for number, name in enumerate(CONTIGS) if len(CONTIGS[name]) >= length]
    contig = np.array(data.draw(st.lists(st.sampled_from(fitting), max_size=9)), dtype=np.int64)
    start = np.array(
        [data.draw(st.integers(0, len(CONTIGS[list(CONTIGS)[number]]) - length)) for number in contig], dtype=np.int64
    )
    if length == 0:
        start = np.minimum(start, np.array([len(text) - 1 for text in CONTIGS.values()])[contig])
    ids, damaged = local.read_windows(contig, start, length)
    assert (ids.shape, ids.dtype, damaged) == ((len(contig), length), np.uint8, [])
    for row, (number, first) in enumerate(zip(contig.tolist(), start.tolist(), strict=True)):
        np.testing.assert_array_equal(ids[row], local.read(number, first, first + length))


def test_blocks_of_returns_every_block_that_windows_overlap(local):
    touched = local.blocks_of(np.array([2, 0, 0]), np.array([150, 90, 0]), 120)
    assert touched == [22, 23, 0, 1, 2]
    assert local.blocks_of(np.array([0]), np.array([50]), 260) == [0, 1, 2, 3]


@pytest.mark.parametrize("start", [-1, 1901])
def test_a_window_outside_of_its_contig_is_rejected(local, start):
    with pytest.raises(UserError, match=rf"one:{start}-{start + 100} is out of range; one has 2000 bases \(0-2000\)"):
        local.read_windows(np.array([0, 0]), np.array([5, start]), 100)


# Damage


def test_only_windows_on_damaged_blocks_are_quarantined(local, caplog):
    whole = ShardSet.open(local.folder)
    contig, start = every_window(local)
    expected, _ = whole.read_windows(contig, start, 50)
    lost = damage(local)
    shards = ShardSet.open(local.folder, on_damaged="quarantine")
    block = [shards.blocks_of(contig[row : row + 1], start[row : row + 1], 50)[0] for row in range(len(contig))]
    bad = np.flatnonzero(lost[block])
    with caplog.at_level(logging.WARNING):
        ids, damaged = shards.read_windows(contig, start, 50)
        again, _ = shards.read_windows(contig, start, 50)
    assert [row for row, _ in damaged] == bad.tolist()
    assert (ids[bad] == N).all()
    expected[bad] = N
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(again, expected)
    warnings = [record.getMessage() for record in caplog.records]
    # One warning for the changed block, two for truncated blocks, one for the missing shard.
    assert len(warnings) == len(set(warnings)) == 1 + 2 + 1
    assert any("block 2 (one:201-300) does not match" in message for _, message in damaged)
    assert any("missing" in message for _, message in damaged)
    # The result does not depend on the order or batch of windows.
    for row in np.random.default_rng(1).permutation(len(contig)):
        alone, out = ShardSet.open(local.folder, on_damaged="quarantine").read_windows(contig[[row]], start[[row]], 50)
        np.testing.assert_array_equal(alone[0], expected[row])
        assert bool(out) == (row in bad)


def test_a_window_across_a_damaged_block_is_quarantined(local):
    change_block(local, 2)
    shards = ShardSet.open(local.folder, on_damaged="quarantine")
    ids, damaged = shards.read_windows(np.array([0, 0, 0]), np.array([150, 0, 299]), 120)
    assert [row for row, _ in damaged] == [0, 2]
    assert (ids[[0, 2]] == N).all()
    np.testing.assert_array_equal(ids[1], shards.read("one", 0, 120))


def test_damage_is_fatal_by_default_and_always_for_read_and_text(local):
    change_block(local, 2)
    quarantine = ShardSet.open(local.folder, on_damaged="quarantine")
    for read in (
        lambda: ShardSet.open(local.folder).read_windows(np.array([0]), np.array([250]), 20),
        lambda: quarantine.read("one", 250, 270),
        lambda: quarantine.text("one", 250, 270),
    ):
        with pytest.raises(DamagedError, match=r"\.tar: block 2 \(one:201-300\) does not match index\.json.*copy"):
            read()


@pytest.mark.parametrize("call", ["open", "pread"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_os_errors_are_never_quarantined(local, monkeypatch, call, number):
    shards = ShardSet.open(local.folder, on_damaged="quarantine")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UserError, match=r"\.tar: (no permission to read it|cannot be read)"):
        shards.read_windows(np.array([0]), np.array([250]), 20)


def test_a_missing_set_is_not_damage(local):
    shards = ShardSet.open(local.folder, on_damaged="quarantine")
    local.folder.rename(local.folder.with_name("moved"))
    with pytest.raises(UserError, match="the shard set no longer exists; restore it"):
        shards.read_windows(np.array([0]), np.array([250]), 20)


def test_a_fixed_shard_is_read_again(local):
    shards = ShardSet.open(local.folder)
    shard = local.folder / local.index.shards[0].name
    sound = shard.read_bytes()
    assert change_block(local, 2) == shard
    with pytest.raises(DamagedError):
        shards.text("one", 200, 300)
    (local.folder / "new").write_bytes(sound)
    (local.folder / "new").rename(shard)
    assert shards.text("one", 200, 300) == CONTIGS["one"][200:300]


def test_the_memory_cache_is_bounded(local):
    shards = ShardSet.open(local.folder, cache_bytes=1500)
    assert everything(shards) == CONTIGS
    assert everything(shards) == CONTIGS
    assert sum(block.nbytes for block in shards._cache.values()) <= 1500
