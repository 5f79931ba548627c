import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.data.contigs import Contigs, names_as_lines
from ldarnet.errors import UserError
from ldarnet.genome.intervals import intersect, total_bases
from sharding.splits import (
    parse_contig_splits,
    parse_hash_fractions,
    read_splits_bed,
    splits_by_contig,
    splits_by_hash,
    splits_by_interval,
)
from sharding.splitting import Splitting

NONE = np.zeros(3, np.int64)
CONTIGS = Contigs(
    [""], names_as_lines(["a", "b", "c"]), NONE, NONE, np.array([100, 50, 9]), NONE, np.zeros((3, 32), np.uint8)
)


def as_lists(splits):
    return {name: rows.tolist() for name, rows in splits.items()}


def test_contigs_without_a_split_are_train():
    named = parse_contig_splits(["valid=b", "test=c"])
    assert as_lists(splits_by_contig(named, CONTIGS)) == {
        "train": [[0, 0, 100]],
        "valid": [[1, 0, 50]],
        "test": [[2, 0, 9]],
    }
    assert as_lists(splits_by_contig({}, CONTIGS)) == {"train": [[0, 0, 100], [1, 0, 50], [2, 0, 9]]}
    assert as_lists(splits_by_contig({"train": ["c"]}, CONTIGS)) == as_lists(splits_by_contig({}, CONTIGS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["valid"], "split name or contigs missing; use NAME=CONTIG,CONTIG"),
        (["valid="], "split name or contigs missing"),
        (["=a"], "split name or contigs missing"),
        (["v=a", "v=b"], "split 'v' is given twice"),
        (["v=a", "w=b,a"], "--split w=b,a: 'a' is already in split 'v'"),
        (["v=a,x"], "no contig 'x'; use one of a, b, c"),
        (["v=a,b,c"], "the options assign all contigs; leave at least one contig for 'train'"),
    ],
)
def test_bad_contig_splits_are_rejected(options, message):
    with pytest.raises(UserError, match=message):
        splits_by_contig(parse_contig_splits(options), CONTIGS)


def bed(tmp_path, text):
    path = tmp_path / "splits.bed"
    path.write_text(text)
    return splits_by_interval(path, read_splits_bed(path), CONTIGS)


def test_bed_intervals_are_sorted_and_merged_within_a_split(tmp_path):
    text = "# comment\ntrack name=x\nb\t0\t50\tvalid\n\na\t20\t60\ttrain\na 10 30 train\n"
    text += "a\t60\t70\ttrain\na\t71\t100\ttest\n"
    assert as_lists(bed(tmp_path, text)) == {"train": [[0, 10, 70]], "test": [[0, 71, 100]], "valid": [[1, 0, 50]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no intervals"),
        ("a\t0\t10\n", "line 1: not a BED line"),
        ("a\t0\tten\ttrain\n", "line 1: not a BED line"),
        ("a\t0\t10\ttrain\nz\t0\t10\ttrain\n", "line 2: no contig 'z'; use one of a, b, c"),
        ("a\t0\t101\ttrain\n", "line 1: a:0-101 extends beyond the contig \\(0-100\\)"),
        ("a\t10\t10\ttrain\n", "line 1: a:10-10 is empty"),
        ("a\t-1\t10\ttrain\n", "line 1: not a BED line"),
        ("a\t0\t10\ttrain\n\na\t9\t20\tvalid\n", "line 3: split 'valid' overlaps split 'train' of line 1"),
        (
            "a\t0\t50\ttrain\na\t5\t9\ttrain\na\t20\t30\tvalid\n",
            "line 3: split 'valid' overlaps split 'train' of line 1",
        ),
    ],
)
def test_bad_bed_files_are_rejected(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        bed(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "splits.bed"))


def test_a_missing_or_binary_bed_file_is_rejected(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_splits_bed(tmp_path / "absent.bed")
    (tmp_path / "x.bed").write_bytes(b"\x1f\x8b\xff")
    with pytest.raises(UserError, match="truncated"):
        read_splits_bed(tmp_path / "x.bed")
    with pytest.raises(UserError, match="a folder, not a file"):
        read_splits_bed(tmp_path)


def contigs_of(names: list[str], lengths: list[int], species: list[int] | None = None) -> Contigs:
    none = np.zeros(len(names), np.int64)
    numbers = np.array(species) if species else none
    digests = np.zeros((len(names), 32), np.uint8)
    species_names = [f"s{number}" for number in range(numbers.max() + 1)] if species else [""]
    return Contigs(species_names, names_as_lines(names), numbers, none, np.array(lengths), none, digests)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.integers(1, 60), st.integers(0, 3))
def test_hashed_tiles_assign_every_base_once(lengths, tile, seed):
    lengths = [*lengths, 60 * tile]
    contigs = contigs_of([f"c{number}" for number in range(len(lengths))], lengths)
    # The last contig has enough tiles for every split.
    splits = splits_by_hash({"valid": 0.3, "test": 0.2}, tile, seed, contigs)
    assert list(splits) == ["train", "valid", "test"]
    taken = [np.zeros(length, int) for length in lengths]
    for rows in splits.values():
        for contig, start, stop in rows.tolist():
            assert start % tile == 0
            assert stop % tile == 0 or stop == lengths[contig]
            taken[contig][start:stop] += 1
    assert all((count == 1).all() for count in taken)


def test_hashed_fractions_are_near_the_requested_ones_and_depend_on_the_seed():
    contigs = contigs_of(["a", "b"], [10**6, 10**6], [0, 1])
    splits = splits_by_hash({"valid": 0.05, "test": 0.2}, 100, 0, contigs)
    assert abs(total_bases(splits["valid"]) / 2e6 - 0.05) < 0.005
    assert abs(total_bases(splits["test"]) / 2e6 - 0.2) < 0.01
    other = splits_by_hash({"valid": 0.05, "test": 0.2}, 100, 1, contigs)
    assert total_bases(intersect(splits["valid"], other["valid"])) < 0.1 * total_bases(splits["valid"])


def test_the_tiles_of_a_contig_do_not_depend_on_other_contigs():
    shares = {"valid": 0.3}
    alone = splits_by_hash(shares, 10, 0, contigs_of(["b"], [1000], [0]))
    among = splits_by_hash(shares, 10, 0, contigs_of(["b", "x", "b"], [1000, 400, 1000], [0, 0, 1]))
    assert among["valid"][among["valid"][:, 0] == 0].tolist() == alone["valid"].tolist()
    assert among["valid"][among["valid"][:, 0] == 2, 1:].tolist() != alone["valid"][:, 1:].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["valid"], "--split-hash valid: malformed; use NAME=FRACTION with 0 < FRACTION < 1"),
        (["valid=0"], "--split-hash valid=0: malformed"),
        (["valid=x"], "--split-hash valid=x: malformed"),
        (["valid=0.1,valid=0.2"], "split 'valid' is given twice; give it once"),
        (["train=0.1"], "'train' always gets all remaining tiles; remove this entry"),
        (["valid=0.5", "test=0.5"], "the fractions sum to 1, which leaves no tiles for 'train'; use smaller fractions"),
    ],
)
def test_bad_hash_fractions_are_rejected(options, message):
    with pytest.raises(UserError, match=message):
        parse_hash_fractions(options)


def test_a_split_without_tiles_is_rejected():
    with pytest.raises(UserError, match=r"none of 6 tiles of 10,000,000 .* \(such as --hash-tile 131072\)"):
        splits_by_hash({"valid": 0.05}, 10_000_000, 0, contigs_of([*"abcdef"], [10_000_000] * 6, [0] * 6))


def test_ambiguous_contig_names_need_the_species():
    contigs = contigs_of(["a", "b", "a"], [10, 20, 30], [0, 0, 1])
    named = parse_contig_splits(["valid=s1/a,b"])
    assert as_lists(splits_by_contig(named, contigs)) == {"train": [[0, 0, 10]], "valid": [[1, 0, 20], [2, 0, 30]]}
    with pytest.raises(UserError, match="'a' is in several species; use one of s0/a, s1/a"):
        splits_by_contig({"valid": ["a"]}, contigs)
    with pytest.raises(UserError, match="'b' is already in split 'valid'"):
        splits_by_contig({"valid": ["s0/b"], "test": ["b"]}, contigs)


def test_whole_species_and_lists_of_names_make_a_split(tmp_path):
    contigs = contigs_of(["a", "b", "a", "c"], [10, 20, 30, 40], [0, 0, 1, 2])
    (tmp_path / "valid.txt").write_text("s0/\ns1/a\n")
    named = parse_contig_splits([f"valid=@{tmp_path / 'valid.txt'}"])
    assert as_lists(splits_by_contig(named, contigs)) == {
        "train": [[3, 0, 40]],
        "valid": [[0, 0, 10], [1, 0, 20], [2, 0, 30]],
    }
    with pytest.raises(UserError, match="no species 's7' in the input; use one of s0, s1, s2"):
        splits_by_contig({"valid": ["s7/"]}, contigs)
    with pytest.raises(UserError, match="'s0/' is already in split 'test'"):
        splits_by_contig({"test": ["b"], "valid": ["s0/"]}, contigs)
    with pytest.raises(UserError, match=r"absent\.txt: no such file"):
        parse_contig_splits([f"valid=@{tmp_path / 'absent.txt'}"])


def test_overlaps_under_two_names_of_a_contig_are_rejected(tmp_path):
    path = tmp_path / "splits.bed"
    path.write_text("b\t0\t10\ttrain\ns0/b\t5\t15\tvalid\n")
    with pytest.raises(UserError, match="splits 'train' and 'valid' overlap in s0/b:5-10"):
        splits_by_interval(path, read_splits_bed(path), contigs_of(["a", "b"], [10, 20], [0, 0]))


def test_exclusions_are_removed_from_every_split_and_counted(tmp_path):
    (tmp_path / "one.bed").write_text("a\t10\t20\tname\t0\t+\nb\t0\t5\n")
    (tmp_path / "two.bed").write_text("a 15 30\n")
    exclude = [tmp_path / "one.bed", tmp_path / "two.bed"]
    splits, cut = Splitting({"valid": ["b"]}, exclude=exclude).apply(CONTIGS)
    assert as_lists(splits) == {"train": [[0, 0, 10], [0, 30, 100], [2, 0, 9]], "valid": [[1, 5, 50]]}
    assert cut == {"train": 20, "valid": 5}
    with pytest.raises(UserError, match=r"two\.bed: line 1: no contig 'a'"):
        Splitting(exclude=exclude[1:]).apply(contigs_of(["x"], [100]))
    (tmp_path / "two.bed").write_text("a\t15\n")
    with pytest.raises(UserError, match=r"two\.bed: line 1: not a BED line; write contig, start, end, sep"):
        Splitting(exclude=exclude)
