import numpy as np
import pytest

from ldarnet.data.index import Contig
from ldarnet.errors import UserError
from sharding.splits import parse_contig_splits, read_bed, splits_by_contig, splits_by_interval

CONTIGS = [
    Contig(name, length, 0, "", np.zeros((0, 2), np.int64)) for name, length in (("a", 100), ("b", 50), ("c", 9))
]


def as_lists(splits):
    return {name: rows.tolist() for name, rows in splits.items()}


def test_contigs_in_no_named_split_are_for_training():
    wanted = parse_contig_splits(["valid=b", "test=c"])
    assert as_lists(splits_by_contig(wanted, CONTIGS)) == {
        "train": [[0, 0, 100]],
        "valid": [[1, 0, 50]],
        "test": [[2, 0, 9]],
    }
    assert as_lists(splits_by_contig({}, CONTIGS)) == {"train": [[0, 0, 100], [1, 0, 50], [2, 0, 9]]}
    assert as_lists(splits_by_contig({"train": ["c"]}, CONTIGS)) == as_lists(splits_by_contig({}, CONTIGS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["valid"], "not a split; write it as NAME=CONTIG,CONTIG"),
        (["valid="], "not a split"),
        (["=a"], "not a split"),
        (["v=a", "v=b"], "split 'v' is given twice"),
        (["v=a", "w=b,a"], "contig 'a' is in split 'v' already"),
        (["v=a,x"], "no contig 'x' in the input; it holds a, b, c"),
        (["v=a,b,c"], "nothing is left for 'train'"),
    ],
)
def test_bad_contig_splits_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        splits_by_contig(parse_contig_splits(options), CONTIGS)


def bed(tmp_path, text):
    path = tmp_path / "splits.bed"
    path.write_text(text)
    return splits_by_interval(path, read_bed(path), CONTIGS)


def test_bed_intervals_are_sorted_and_joined_within_a_split(tmp_path):
    text = "# comment\ntrack name=x\nb\t0\t50\tvalid\n\na\t20\t60\ttrain\na 10 30 train\n"
    text += "a\t60\t70\ttrain\na\t71\t100\ttest\n"
    assert as_lists(bed(tmp_path, text)) == {"train": [[0, 10, 70]], "test": [[0, 71, 100]], "valid": [[1, 0, 50]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a\t0\t10\n", "line 1: not a split interval"),
        ("a\t0\tten\ttrain\n", "line 1: not a split interval"),
        ("a\t0\t10\ttrain\nz\t0\t10\ttrain\n", "line 2: no contig 'z' in the input; it holds a, b, c"),
        ("a\t0\t101\ttrain\n", "line 1: a:0-101 is not within the contig's 0-100"),
        ("a\t10\t10\ttrain\n", "line 1: a:10-10 holds no base"),
        ("a\t-1\t10\ttrain\n", "line 1: not a split interval"),
        ("a\t0\t10\ttrain\n\na\t9\t20\tvalid\n", "line 3: split 'valid' overlaps split 'train' of line 1"),
        (
            "a\t0\t50\ttrain\na\t5\t9\ttrain\na\t20\t30\tvalid\n",
            "line 3: split 'valid' overlaps split 'train' of line 1",
        ),
    ],
)
def test_bad_bed_files_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        bed(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "splits.bed"))


def test_a_bed_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_bed(tmp_path / "absent.bed")
    (tmp_path / "x.bed").write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(UserError, match="cannot be read as a BED file"):
        read_bed(tmp_path / "x.bed")
    with pytest.raises(UserError, match="a folder, not a file"):
        read_bed(tmp_path)
