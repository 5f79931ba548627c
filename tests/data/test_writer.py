"""Shards are byte-identical to those of the first release of format version 2 (recorded hashes)."""

import hashlib
import random
from collections.abc import Iterator
from itertools import chain

import pytest

from ldarnet.data.writer import PackedBlock, write_shards

SHARDS = {
    "shard-00000-0000-0000.tar": (10_240, "e4e41aa6f4f4bb9eb6caaa1e4af4c9d05aa3bc3d43c933e987c0300f4d7a6d7c"),
    "shard-00000-0000-0001.tar": (122_880, "12df64d1085c1cd43fd751cb1ca9650f5a030684f3006416d1390c9b2e48d717"),
    "shard-00000-0000-0002.tar": (10_240, "224782105bac3c4e3a1d6b204744ab567e9c51cc3da4a64424523e66db7fbefd"),
}
ROWS = "c44a55f4b752e8f59a1a1a4bbd06c74f05a779968cb375190c6e4e5d822e6179"
LONGEST_NAME = "fafbd72e236f739d428fbe6baf1256099e64863a9ef57380297f19d3397df343"


def blocks() -> Iterator[PackedBlock]:
    rng = random.Random(1)
    for number, size in enumerate((1, 511, 512, 513, 10_240, 100_001, 8_704, 0, 77)):
        yield PackedBlock(number // 3, (number % 3) * 2**20, 2**18, rng.randbytes(size))


def test_shards_and_offsets_are_byte_identical_to_the_recorded_ones(tmp_path):
    shards, rows = write_shards(tmp_path, "00000-0000", blocks(), 2**20)
    assert {shard.name: (shard.size, shard.sha256) for shard in shards} == SHARDS
    assert hashlib.sha256(rows.tobytes()).hexdigest() == ROWS
    for shard in shards:
        assert hashlib.sha256((tmp_path / shard.name).read_bytes()).hexdigest() == shard.sha256


def test_the_longest_member_name_keeps_its_header(tmp_path):
    (shard,), _ = write_shards(tmp_path, "99999-9999", [PackedBlock(9_999_999, 999_999_999_999, 1, b"x" * 5)], 1)
    assert shard.sha256 == LONGEST_NAME


def test_frames_are_at_the_offsets_in_the_index(tmp_path):
    shards, rows = write_shards(tmp_path, "00000-0000", blocks(), 2**20)
    for block, row in zip(blocks(), rows, strict=True):
        content = (tmp_path / shards[row["shard"]].name).read_bytes()
        assert content[row["offset"] : row["offset"] + row["size"]] == block.frame


def test_an_error_in_the_block_iterator_leaves_no_partial_shard(tmp_path):
    def failing() -> Iterator[PackedBlock]:
        raise ValueError("bad block")
        yield

    with pytest.raises(ValueError, match="bad block"):
        write_shards(tmp_path, "00000-0000", chain(list(blocks())[:1], failing()), 2**20)
    assert not list(tmp_path.iterdir())
