import gzip
from pathlib import Path

import numpy as np
import pytest

from ldarnet.errors import TransientError, UserError
from ldarnet.tasks import open_task

ROWS = [("ACGTACGT", "0", "a"), ("acgtnACG", "1", "b"), ("TTTTGGGG", "1", "c"), ("GGCCGGCC", "0", "d")]


def table(rows, delimiter: str, header=("sequence", "label", "name")) -> str:
    return "".join(f"{delimiter.join(row)}\n" for row in [header, *rows])


def fasta(rows) -> str:
    return "".join(f">{name}|{label}\n{sequence[:5]}\n{sequence[5:]}\n" for sequence, label, name in rows)


def write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        header, *rows = [line.split("\t") for line in text.splitlines()]
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        typed = {name: list(map(int, column)) if name == "label" else list(column) for name, column in columns.items()}
        parquet.write_table(pyarrow.table(typed), path)
    else:
        path.write_text(text)
    return path


def read(path: Path, text: str, **options):
    return open_task(None, train=write(path, text), **options)


FORMS = {
    "rows.csv": table(ROWS, ","),
    "rows.tsv": table(ROWS, "\t"),
    "rows.csv.gz": table(ROWS, ","),
    "rows.fa": fasta(ROWS),
    "rows.FNA.gz": fasta(ROWS),
    "rows.parquet": table(ROWS, "\t"),
}


@pytest.mark.parametrize("name", FORMS)
def test_all_formats_give_the_same_rows(tmp_path, name):
    data = read(tmp_path / name, FORMS[name])
    assert data.train.sequences == ["ACGTACGT", "ACGTNACG", "TTTTGGGG", "GGCCGGCC"]
    assert data.train.names == ["a", "b", "c", "d"]
    assert data.train.labels.tolist() == [0, 1, 1, 0]
    assert data.train.labels.dtype == np.int64
    assert (data.task, data.suite, data.classes) == ("rows", "own", ["0", "1"])
    assert data.test is None
    assert data.valid is None
    assert data.fingerprint == read(tmp_path / "rows.csv", FORMS["rows.csv"]).fingerprint
    assert (
        data.fingerprint != read(tmp_path / "rows.csv", FORMS["rows.csv"].replace("ACGTACGT", "ACGTACGA")).fingerprint
    )


def test_windows_line_ends_byte_order_marks_and_quotes_are_read(tmp_path):
    quoted = table([(f'"{s}"', f'"{y}"', f'"{n}"') for s, y, n in ROWS], "\t", ('"sequence"', '"label"', '"name"'))
    one = read(tmp_path / "rows.csv", "\ufeff" + table(ROWS, ",").replace("\n", "\r\n"))
    other = read(tmp_path / "rows.tsv", quoted)
    assert one.fingerprint == other.fingerprint


def test_columns_are_found_by_common_names_or_by_option(tmp_path):
    data = read(tmp_path / "x.csv", table(ROWS, ",", ("Seq", "Class", "other")))
    assert data.train.names == ["x:1", "x:2", "x:3", "x:4"]
    mine = table(ROWS, ",", ("dna of mine", "is it", "probe"))
    named = read(tmp_path / "x.csv", mine, sequence_column="dna of mine", label_column="is it", name_column="probe")
    assert named.train.names == ["a", "b", "c", "d"]


def test_names_are_unique(tmp_path):
    rows = [(sequence, label, name) for (sequence, label, _), name in zip(ROWS, ("a", "", "a", "a"), strict=True)]
    assert read(tmp_path / "x.csv", table(rows, ",")).train.names == ["a", "x:2", "a#2", "a#3"]


def test_named_classes_are_numbered_alphabetically_and_noted(tmp_path):
    rows = [(sequence, {"0": "weak", "1": "strong"}[label], name) for sequence, label, name in ROWS]
    data = read(tmp_path / "x.csv", table(rows, ","))
    assert data.classes == ["strong", "weak"]
    assert data.train.labels.tolist() == [1, 0, 0, 1]
    assert "class indices: strong=0, weak=1" in data.notes


def test_integers_that_do_not_begin_with_0_are_numbered_by_size(tmp_path):
    rows = [(sequence, {"0": "10", "1": "-1"}[label], name) for sequence, label, name in ROWS]
    data = read(tmp_path / "x.csv", table(rows, ","))
    assert data.classes == ["-1", "10"]
    assert data.train.labels.tolist() == [1, 0, 0, 1]
    assert "class indices: -1=0, 10=1" in data.notes


def test_ambiguity_codes_are_read_as_n_and_counted(tmp_path):
    data = read(tmp_path / "x.csv", table([("ACRYGT", "0", "a"), ("ACGKNN", "1", "b")], ","))
    assert data.train.sequences == ["ACNNGT", "ACGNNN"]
    assert data.notes == ["3 ambiguity codes were replaced with N"]


def test_sequences_that_are_mostly_n_are_counted(tmp_path):
    data = read(
        tmp_path / "x.csv", table([("ACGTNNNN", "0", "half"), ("ACNNN", "1", "more"), ("NNNN", "0", "all")], ",")
    )
    assert data.notes == ["2 train sequences have more than 50% N"]


def test_duplicates_are_counted_and_noted(tmp_path):
    train = write(tmp_path / "train.csv", table([*ROWS, ("ACGTACGT", "1", "again")], ","))
    test = write(tmp_path / "test.csv", table([("CCCCAAAA", "0", "other strand"), ("AAAAAAAA", "1", "new")], ","))
    notes = open_task(None, train=train, test=test).notes
    what = "1 test sequences duplicate a training or validation sequence (on either strand)"
    assert f"{what}, 1 of them with a different label" in notes
    assert any(note.startswith("1 training or validation sequences duplicate an earlier one") for note in notes)


def good(*extra: str) -> str:
    return table(ROWS, ",") + "".join(f"{line}\n" for line in extra)


BAD = {
    "an empty sequence": ("x.csv", good(",0,e"), r"x\.csv: line 6: the sequence is empty; add the sequence or remove"),
    "an invalid character": (
        "x.csv",
        good("ACG-T,0,e"),
        r"x\.csv: line 6: '-' at base 4 is not a nucleotide code",
    ),
    "a non-ASCII character": ("x.csv", good("ACGü,0,e"), r"x\.csv: line 6: 'ü' at base 4 is not a nucleotide"),
    "RNA": ("x.fa", fasta([*ROWS, ("ACGU", "1", "e")]), r"x\.fa: line 13: 'U' at base 4 .*; replace U with T"),
    "a label that is missing": ("x.csv", good("ACGT,,e"), r"x\.csv: line 6: the label is missing; fill it in"),
    "a label in FASTA": (
        "x.fa",
        ">a|1\nACGT\n>b\nACGT\n",
        r"x\.fa: line 3: the header 'b' has no label; .*>name\|label",
    ),
    "a number": (
        "x.csv",
        good("ACGT,0.5,e"),
        r"x\.csv: line 6: the label '0\.5' is not an integer; number",
    ),
    "a very long integer": (
        "x.csv",
        good(f"ACGT,{'1' * 5000},e"),
        r"x\.csv: line 6: the label 1{20}\.\.\. has more than 18 digits; number the classes",
    ),
    "a label with a tab": (
        "x.csv",
        good("ACGT,a\tb,e"),
        r"x\.csv: line 6: the label 'a\\tb' contains an invisible character",
    ),
    "a label of two lines": (
        "x.csv",
        good('ACGT,"a\nb",e'),
        r"x\.csv: line 7: the label 'a\\nb' contains an invisible character",
    ),
    "a character whose upper case is two": ("x.csv", good("ACß,0,e"), r"x\.csv: line 6: 'ß' at base 3"),
    "Parquet in gzip": ("x.parquet.gz", "PAR1", r"x\.parquet\.gz: gzipped Parquet is not supported.*; unpack it"),
    "names and numbers": (
        "x.csv",
        good("ACGT,enhancer,e"),
        r"x\.csv: line 6: the label 'enhancer' is a name, but others",
    ),
    "one class": (
        "x.csv",
        table(ROWS[1:3], ","),
        r"x\.csv: all 2 rows have the label '1'; a classifier needs at least two",
    ),
    "two columns of one name": (
        "x.csv",
        table(ROWS, ",", ("sequence", "label", "label")),
        r"x\.csv: line 1: 2 columns named 'label'; rename all but one",
    ),
    "no sequences column": (
        "x.csv",
        table(ROWS, ",", ("one", "label", "name")),
        r"x\.csv: line 1: no sequence column among 'one', 'label', 'name'; .*data\.sequence_column",
    ),
    "no line of names": (
        "x.csv",
        "ACGT,0\n",
        r"x\.csv: line 1: no sequence column among 'ACGT', '0'; the first line",
    ),
    "no label column": (
        "x.parquet",
        table(ROWS, "\t", ("sequence", "target", "name")),
        r"x\.parquet: no label column among 'sequence', 'target', 'name'",
    ),
    "too few fields": ("x.csv", good("ACGT,0"), r"x\.csv: line 6: 2 columns, but 3 in the header; fix the line"),
    "too many fields": ("x.tsv", table([*ROWS, ("A", "C", "G", "T")], "\t"), r"x\.tsv: line 6: 4 columns, but 3"),
    "an open quote": ("x.csv", good('"ACGT,0,e'), r"x\.csv: line 6: .*; fix the line"),
    "nothing": ("x.csv", "", r"x\.csv: empty file; choose a file"),
    "names alone": ("x.csv", "sequence,label\n", r"x\.csv: no sequences; choose a file"),
    "no FASTA": ("x.fa", "ACGT\n", r"x\.fa: line 1: not FASTA: starts with 'ACGT', not '>'"),
    "nothing, compressed": ("x.csv.gz", "", r"x\.csv\.gz: no sequences; choose a file"),
    "another format": ("x.xlsx", "PK", r"x\.xlsx: unknown file format; use one of \.tsv"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_error_with_file_location_and_fix(tmp_path, case):
    name, text, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / name, text)
    assert "\n" not in str(error.value)


def test_test_labels_absent_from_training_are_rejected(tmp_path):
    train = write(tmp_path / "train.csv", table(ROWS, ","))
    test = write(tmp_path / "test.csv", table([("ACGT", "0", "a"), ("ACGT", "2", "b")], ","))
    with pytest.raises(UserError, match=r"test\.csv: line 3: unknown label '2': the classes of .*train\.csv are 0, 1"):
        open_task(None, train=train, test=test)


def test_unreadable_files_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such file"):
        open_task(None, train=tmp_path / "none.csv")
    with pytest.raises(
        UserError, match=r"x\.csv: line 1: data\.label_column=target: no such column; use one of 'sequence'"
    ):
        read(tmp_path / "x.csv", table(ROWS, ","), label_column="target")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(table(ROWS, ",").encode())[:-12])
    with pytest.raises(UserError, match=r"cut\.csv\.gz: .*truncated"):
        open_task(None, train=tmp_path / "cut.csv.gz")
    (tmp_path / "latin.csv").write_bytes("sequence,label\nACGT,f\xfcr\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.csv: not UTF-8"):
        open_task(None, train=tmp_path / "latin.csv")
    (tmp_path / "text.parquet").write_text(table(ROWS, ","))
    with pytest.raises(UserError, match=r"text\.parquet: not Parquet: starts with .*; rename it to \.csv"):
        open_task(None, train=tmp_path / "text.parquet")


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv.gz"])
def test_damaged_bytes_raise_a_permanent_error_or_are_harmless(tmp_path, name):
    path = write(tmp_path / name, FORMS[name])
    whole = path.read_bytes()
    refused = []
    for at in range(0, len(whole), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            open_task(None, train=path)
        except UserError as error:
            refused.append(error)
    assert refused
    assert not [error for error in refused if isinstance(error, TransientError) or str(path) not in str(error)]


def test_tabs_in_names_are_replaced(tmp_path):
    rows = [(ROWS[0][0], "0", '"a\tb"'), (ROWS[1][0], "1", '"a\nb"')]
    assert read(tmp_path / "x.csv", table(rows, ",")).train.names == ["a b", "a b#2"]


def test_ambiguous_requests_are_rejected(tmp_path):
    train = write(tmp_path / "train.csv", table(ROWS, ","))
    with pytest.raises(UserError, match=r"task is not set; choose a published task .* or set data\.train"):
        open_task(None)
    with pytest.raises(UserError, match=r"data\.test=.*: data\.train is not set"):
        open_task("H3", test=train)
    with pytest.raises(UserError, match=r"task=H3 is a published task, but data\.train is set"):
        open_task("H3", train=train)
    assert open_task("my promoters", train=train).task == "my promoters"


def test_a_subset_keeps_rows_together(tmp_path):
    rows = read(tmp_path / "x.csv", table(ROWS, ",")).train
    part = rows.subset(np.array([2, 0]))
    assert (part.names, part.sequences, part.labels.tolist()) == (["c", "a"], ["TTTTGGGG", "ACGTACGT"], [1, 0])
    assert rows.subset(rows.labels == 1).names == ["b", "c"]
    assert len(rows.subset(np.zeros(4, dtype=bool))) == 0
