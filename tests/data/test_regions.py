"""Regions of a BED file as masks over windows."""

import gzip
import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet.data.regions import OTHER, Regions, _covered, _merged
from ldarnet.errors import UserError

LINES = """# a comment
track name=x
one\t10\t20\trepeat
one\t18\t30\tcoding\t900\t+
one\t15\t25\trepeat
three\t0\t5\tgene
"""


@pytest.fixture
def shards(make_set):
    return make_set({"one": "ACGT" * 100, "two": "GGCA" * 100, "three": "ACGT" * 50}, {"valid": ["one", "two"]})


@pytest.fixture
def bed(tmp_path):
    path = tmp_path / "regions.bed"

    def write(text):
        path.write_text(text)
        return path

    return write


def test_a_base_is_in_every_region_that_covers_it_or_in_other(shards, bed):
    regions = Regions(bed(LINES), shards, "valid")
    assert regions.names == ["coding", "repeat", OTHER]
    one, two = (next(n for n in range(3) if shards.index.name(n) == name) for name in ("one", "two"))
    coding, repeat, other = regions.masks([one, two], [5, 5], 30)
    assert np.flatnonzero(coding[0]).tolist() == list(range(13, 25))
    assert np.flatnonzero(repeat[0]).tolist() == list(range(5, 20))
    assert np.flatnonzero(other[0]).tolist() == [0, 1, 2, 3, 4, *range(25, 30)]
    assert other[1].all()
    assert not coding[1].any()


def test_a_compressed_file_is_read(shards, tmp_path):
    path = tmp_path / "regions.bed.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    assert Regions(path, shards, "valid").names == ["coding", "repeat", OTHER]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=12),
    st.integers(0, 70),
    st.integers(1, 40),
)
def test_covered_bases_match_a_plain_loop(intervals, first, length):
    pairs = np.array([(start, start + size) for start, size in intervals])
    expected = [any(start <= base < end for start, end in pairs) for base in range(first, first + length)]
    assert _covered(_merged(pairs), first, length).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\t1\t2\n", "line 1: not a BED line"),
        ("one\t1\t20\trepeat\none 1 20 repeat\n", "line 2"),
        ("one\tx\t20\trepeat\n", "line 1"),
        ("one\t20\t20\trepeat\n", "line 1: one:20-20 is empty"),
        ("one\t1\t20\tother\n", "line 1: the name 'other' is reserved"),
        ("chrOne\t1\t20\trepeat\n", "use the contig names of the shard set"),
        ("".join(f"one\t{n}\t{n + 1}\tgene{n}\n" for n in range(40)), "40 region names"),
    ],
)
def test_invalid_files_are_rejected(shards, bed, text, message):
    with pytest.raises(UserError, match=message) as caught:
        Regions(bed(text), shards, "valid")
    assert "regions.bed" in str(caught.value)


def test_a_missing_or_damaged_file_is_reported(shards, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Regions(tmp_path / "none.bed", shards, "valid")
    broken = tmp_path / "broken.bed.gz"
    broken.write_bytes(gzip.compress(LINES.encode() * 999)[:100])
    with pytest.raises(UserError, match="truncated"):
        Regions(broken, shards, "valid")
    packed = bytearray(lzma.compress(LINES.encode() * 999))
    packed[len(packed) // 2] ^= 255
    broken.with_suffix(".xz").write_bytes(packed)
    with pytest.raises(UserError, match="damaged xz data"):
        Regions(broken.with_suffix(".xz"), shards, "valid")
