"""Regions of a BED file as masks over windows."""

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet.config import load_config
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
        ("one\t1\t401\trepeat\n", r"line 1: one:1-401 extends beyond the contig \(0-400\)"),
        ("one\t1\t9\trepeat\nthree\t1\t201\tgene\n", r"line 2: three:1-201 extends beyond the contig \(0-200\)"),
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


GFF = """##gff-version 3
#!genome-build x
one\tsrc\tregion\t1\t400\t.\t+\t.\tID=one
one\tsrc\tgene\t14\t25\t.\t+\t.\tID=g1;Name=a b
one\tsrc\trepeat_region\t6\t20\t.\t.\t.\t.
two\tsrc\tgene\t400\t400\t.\t-\t0\t.
##FASTA
>one
ACGT
"""
KEEP = ["gene", "repeat_region"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("first", [0, 2])
def test_gff3_is_read_by_feature_type_from_1_based_closed_intervals(shards, tmp_path, pack, end, encoding, first):
    path = tmp_path / "regions.bed"  # the format is recognized by content
    text = end.join(GFF.splitlines()[first:])
    path.write_bytes(pack(text.encode(encoding)))
    regions = Regions(path, shards, "valid", features=KEEP)
    assert regions.names == [*KEEP, OTHER]
    gene, repeat, other = regions.masks([0, 1], [0, 370], 30)
    assert np.flatnonzero(gene[0]).tolist() == list(range(13, 25))
    assert np.flatnonzero(repeat[0]).tolist() == list(range(5, 20))
    assert np.flatnonzero(other[0]).tolist() == [*range(5), *range(25, 30)]
    assert np.flatnonzero(gene[1]).tolist() == [29]
    assert Regions(path, shards, "valid").names == ["gene", "region", "repeat_region", OTHER]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one\tsrc\tgene\t5\t4\t.\t+\t.\t.", "line 2: one:5-4 is empty; GFF3 needs 1 <= start <= end"),
        ("one\tsrc\tgene\t0\t4\t.\t+\t.\t.", "line 2: one:0-4 is empty"),
        ("one\tsrc\tgene\t1\t401\t.\t+\t.\t.", r"line 2: one:0-401 extends beyond the contig \(0-400\)"),
        ("three\tsrc\tgene\t1\t201\t.\t+\t.\t.", r"line 2: three:0-201 extends beyond the contig \(0-200\)"),
        ("one\tsrc\tgene\t1\t9", "line 2: not a GFF3 line"),
        ("one\tsrc\tgene\t1\tx\t.\t+\t.\t.", "line 2: not a GFF3 line"),
        ("one\tsrc\tgenes\t1\t9\t.\t+\t.\t.", "no region named 'gene'; correct validation.regions_features"),
        ("# nothing", "no features"),
        ("four\tsrc\tgene\t1\t9\t.\t+\t.\t.", "no interval is on a contig .* set validation.regions_contigs"),
    ],
)
def test_invalid_gff3_is_rejected(shards, bed, line, message):
    with pytest.raises(UserError, match=rf"regions\.bed: {message}"):
        Regions(bed(f"##gff-version 3\n{line}\n"), shards, "valid", features=["gene"])


def test_features_select_the_names_of_a_bed_file(shards, bed):
    many = LINES + "".join(f"one\t{n}\t{n + 1}\tgene{n}\n" for n in range(40))
    assert Regions(bed(many), shards, "valid", features=["coding"]).names == ["coding", OTHER]
    with pytest.raises(UserError, match=r"42 region names .* choose some with validation.regions_features"):
        Regions(bed(many), shards, "valid")


@pytest.mark.parametrize("as_file", [False, True])
def test_contig_names_are_translated(shards, bed, tmp_path, as_file):
    names: dict[str, str] | Path = {"chr1": "one", "chr3": "three"}
    if as_file:
        (tmp_path / "alias.tsv").write_bytes(
            "# of UCSC\tof the set\r\nchr1\tone\r\n\r\nchr3\tthree".encode("utf-8-sig")
        )
        names = tmp_path / "alias.tsv"
    path = bed(LINES.replace("one", "chr1").replace("three", "chr3") + "two\t0\t1\tgene\n")
    renamed = Regions(path, shards, "valid", contigs=names)
    plain = Regions(bed(LINES + "two\t0\t1\tgene\n"), shards, "valid")
    assert renamed.names == plain.names
    np.testing.assert_array_equal(renamed.masks([0, 1], [5, 0], 30), plain.masks([0, 1], [5, 0], 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\n", "line 1: not two columns; write a contig name"),
        ("a\tb\tc\n", "line 1"),
        ("a\tone\na\ttwo\n", "line 2: a is already"),
    ],
)
def test_invalid_contig_name_files_are_rejected(shards, bed, tmp_path, text, message):
    (tmp_path / "alias.tsv").write_text(text)
    with pytest.raises(UserError, match=rf"alias\.tsv: {message}"):
        Regions(bed(LINES), shards, "valid", contigs=tmp_path / "alias.tsv")


def test_the_configuration_takes_a_mapping_or_a_file(tmp_path):
    base = [
        "run.dir=x",
        "data.shards=y",
        "training.steps=1",
        "validation.regions=genes.gff3",
        "validation.regions_features=[gene]",
    ]
    (tmp_path / "c.yaml").write_text("{}")
    for text, expected in (("{chr1: NC_1.11}", {"chr1": "NC_1.11"}), ("alias.tsv", Path("alias.tsv")), ("null", None)):
        config = load_config(tmp_path / "c.yaml", [*base, f"validation.regions_contigs={text}"])
        assert config.validation.regions_contigs == expected
        config.save(tmp_path / "saved.yaml")
        assert load_config(tmp_path / "saved.yaml").validation == config.validation
