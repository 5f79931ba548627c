"""Task files as spreadsheets, data frames and other programs write them, and files that are too large."""

import bz2
import gzip
import io
import lzma
import re
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import pyarrow
import pytest
from pyarrow import parquet

from ldarnet.errors import TransientError, UserError
from ldarnet.tasks import find_task, open_task, rows

SEQUENCES = ["ACGT", "GGGG", "CCAA"]
TABLE = "sequence,label,name\nACGT,0,a\nGGGG,1,b\nCCAA,1,c\n"
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r", "blank lines": "\n\n", "CRLF and blank lines": "\r\n\r\n"}
COMPRESSIONS = {"plain": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


def opened(path: Path, content: bytes | str):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return open_task(None, train=path)


def read_error(path: Path, content: bytes | str) -> str:
    with pytest.raises(UserError) as caught:
        opened(path, content)
    assert not isinstance(caught.value, TransientError)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".tab", ".CSV"])
def test_line_ends_and_byte_order_marks_of_tables(tmp_path, suffix, end, mark):
    text = mark + TABLE.replace("\n", LINE_ENDS[end])
    data = opened(tmp_path / f"x{suffix}", text if suffix.lower() == ".csv" else text.replace(",", "\t"))
    assert data.train.sequences == SEQUENCES
    assert (data.train.names, data.train.labels.tolist()) == (["a", "b", "c"], [0, 1, 1])


def test_mixed_line_ends_keep_line_numbers(tmp_path):
    text = "sequence,label\r\nACGT,0\nGGGG,1\rCCAA,1\r\n"
    assert opened(tmp_path / "x.csv", text).train.sequences == SEQUENCES
    assert "x.csv: line 5: the label is missing" in read_error(tmp_path / "x.csv", text + "ACGT,\r")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.fa", "x.fa.gz"])
def test_compression_is_recognized_by_content(tmp_path, name, compression):
    text = TABLE if ".csv" in name else ">a|0\nACGT\n>b|1\nGGGG\n>c|1\nCCAA\n"
    assert opened(tmp_path / name, COMPRESSIONS[compression](text.encode())).train.sequences == SEQUENCES


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name != "plain"])
@pytest.mark.parametrize("name", ["x.csv.gz", "x.fa.gz"])
def test_truncated_compressed_files_are_rejected(tmp_path, name, compression):
    text = TABLE if ".csv" in name else ">a|0\nACGT\n>b|1\nGGGG\n>c|1\nCCAA\n"
    content = COMPRESSIONS[compression](text.encode())
    assert "truncated" in read_error(tmp_path / name, content[:-6])


def as_parquet() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"sequence": SEQUENCES, "label": [0, 1, 1]}), file)
    return file.getvalue()


def as_zip() -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("x.csv", TABLE)
    return file.getvalue()


OTHER_CONTENT = {
    "commas in .tsv": ("x.tsv", TABLE, "line 1: the columns are separated by commas, .*; rename the file to .csv"),
    "tabs in .csv": ("x.csv", TABLE.replace(",", "\t"), "line 1: .* separated by tabs, .*; rename the file to .tsv"),
    "semicolons": ("x.csv", TABLE.replace(",", ";"), "line 1: .* separated by semicolons; save the file with commas"),
    "UTF-16": ("x.csv", TABLE.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "UTF-16, big-endian": ("x.tsv", b"\xfe\xff" + TABLE.encode("utf-16-be"), "UTF-16 text; save it as UTF-8"),
    "UTF-16 without BOM": ("x.csv", TABLE.encode("utf-16-le"), r"not UTF-8 text \(contains NUL bytes\); save it"),
    "UTF-16 in gzip": ("x.csv.gz", gzip.compress(TABLE.encode("utf-16")), "UTF-16 text; save it as UTF-8"),
    "Parquet in .csv": ("x.csv", as_parquet(), "a Parquet file; rename it to .parquet"),
    "a spreadsheet in .csv": ("x.csv", as_zip(), "a zip archive or a spreadsheet"),
    "FASTA in .csv": ("x.csv", ">a|1\nACGT\n", "FASTA; rename it to .fa"),
    "csv in .parquet": ("x.parquet", TABLE, "not Parquet: starts with b'sequence.*rename it to .csv or .tsv"),
    "gzip in .parquet": ("x.parquet", gzip.compress(as_parquet()), "not Parquet: starts with"),
    "csv in .fa": ("x.fa", TABLE, "line 1: not FASTA: starts with 'sequence"),
    "truncated Parquet": ("x.parquet", as_parquet()[:-20], "damaged or truncated"),
}


@pytest.mark.parametrize("case", OTHER_CONTENT)
def test_content_that_contradicts_the_suffix_is_named(tmp_path, case):
    name, content, message = OTHER_CONTENT[case]
    assert re.search(message, read_error(tmp_path / name, content))


BINARY = [value.encode() for value in SEQUENCES]
COLUMNS = {
    "binary": pyarrow.array(BINARY),
    "large binary": pyarrow.array(BINARY, pyarrow.large_binary()),
    "fixed size binary": pyarrow.array(BINARY, pyarrow.binary(4)),
    "string": pyarrow.array(SEQUENCES),
    "large string": pyarrow.array(SEQUENCES, pyarrow.large_string()),
    "dictionary of strings": pyarrow.array(SEQUENCES).dictionary_encode(),
    "dictionary of binary": pyarrow.array(BINARY).dictionary_encode(),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("labels", [[0, 1, 1], [False, True, True], ["0", "1", "1"], [b"0", b"1", b"1"]])
def test_column_types_of_parquet(tmp_path, kind, labels):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"sequence": COLUMNS[kind], "label": labels}), path)
    data = open_task(None, train=path)
    assert data.train.sequences == SEQUENCES
    assert data.train.labels.tolist() == [0, 1, 1]


UNSUPPORTED = {
    "list": (SEQUENCES, [[0], [1], [1]], "column 'label' has the type list<.*>; convert it to strings or integers"),
    "struct": (SEQUENCES, [{"a": 1}] * 3, "column 'label' has the type struct<"),
    "not UTF-8": ([b"ACGT", b"\xff\xfe", b"A"], [0, 1, 1], "row 2: the binary value of 'sequence' is not UTF-8"),
    "null": (["ACGT", None, "A"], [0, 1, 1], "row 2: the sequence is empty"),
    "null label": (SEQUENCES, [0, None, 1], "row 2: the label is missing"),
    "float": (SEQUENCES, [0.0, 1.0, 1.0], "row 1: the label '0.0' is not an integer"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_values_of_parquet_are_one_error(tmp_path, case):
    sequences, labels, message = UNSUPPORTED[case]
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"sequence": sequences, "label": labels}), path)
    with pytest.raises(UserError, match=message):
        open_task(None, train=path)


def labeled(*labels: str) -> str:
    return "sequence,label\n" + "".join(f"ACGT{'ACGT'[number % 4]},{label}\n" for number, label in enumerate(labels))


BOOLEANS = {
    "one spelling": (("True", "False", "True"), ["False", "True"], [1, 0, 1]),
    "upper case": (("TRUE", "FALSE"), ["FALSE", "TRUE"], [1, 0]),
    "lower case": (("true", "false"), ["false", "true"], [1, 0]),
    "spreadsheet and pandas": (("True", "false", "FALSE", "TRUE"), ["false", "true"], [1, 0, 0, 1]),
    "one spelling each": (("TRUE", "false"), ["false", "true"], [1, 0]),
    "odd spellings": (("tRue", "False", "True"), ["false", "true"], [1, 0, 1]),
    "a third class": (("true", "FALSE", "unknown", "True"), ["false", "true", "unknown"], [1, 0, 2, 1]),
    "spaces": ((" True", "False "), ["False", "True"], [1, 0]),
}


@pytest.mark.parametrize("case", BOOLEANS)
def test_spellings_of_booleans_are_the_same_classes(tmp_path, case):
    labels, classes, numbers = BOOLEANS[case]
    data = opened(tmp_path / "x.csv", labeled(*labels))
    assert (data.classes, data.train.labels.tolist()) == (classes, numbers)


def test_spelling_of_booleans_may_differ_between_training_and_test(tmp_path):
    test = tmp_path / "test.csv"
    test.write_text(labeled("TRUE", "false", "True"))
    train = tmp_path / "train.csv"
    train.write_text(labeled("True", "False"))
    data = open_task(None, train=train, test=test)
    assert (data.classes, data.test.labels.tolist()) == (["False", "True"], [1, 0, 1])


MIXED = {
    "case": (("Enhancer", "none", "enhancer"), "line 4: the label 'enhancer' differs from 'Enhancer' .line 2. only"),
    "inner spaces": (("a b", "c", "a  b"), "line 4: the label 'a  b' differs from 'a b' .line 2. only in case or spac"),
    "Unicode": (("\u00e9", "c", "e\u0301"), "line 4: the label .* differs from"),
    "boolean and integer": (("True", "0", "1"), "line 2: the label 'True' is a name, but others are integers, such as"),
    "an invisible character": (("a", "b", "a\u200b"), "line 4: the label .* contains an invisible character"),
    "an escape sequence": (("a", "b", "\x1b[2J"), r"line 4: the label '\\x1b\[2J' contains an invisible character"),
    "one class": (("True", "TRUE"), "all 2 rows have the label 'true'"),
}


@pytest.mark.parametrize("case", MIXED)
def test_labels_that_look_the_same_are_one_error(tmp_path, case):
    labels, message = MIXED[case]
    assert re.search(message, read_error(tmp_path / "x.csv", labeled(*labels)))


@pytest.mark.parametrize("value", ["", " ", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None"])
def test_spellings_of_missing_values(tmp_path, value):
    assert "x.csv: line 3: the label is missing" in read_error(tmp_path / "x.csv", labeled("a", value, "b"))
    message = read_error(tmp_path / "x.csv", f"sequence,label\nACGT,0\n{value},1\n")
    assert f"x.csv: line 3: the sequence is {'missing' if value.strip() else 'empty'}" in message


def test_classes_named_none_and_names_of_missing_values_are_accepted(tmp_path):
    data = opened(tmp_path / "x.csv", "sequence,label,name\nACGT,none,NA\nGGGG,weak,NA\n")
    assert (data.classes, data.train.names) == (["none", "weak"], ["NA", "NA#2"])


def test_control_characters_in_names_are_escaped(tmp_path):
    data = opened(tmp_path / "x.csv", "sequence,label,name\nACGT,0,\x1b[2Ja\nGGGG,1,b\u202ec\n")
    assert data.train.names == [r"\x1b[2Ja", r"b\u202ec"]


def test_a_column_of_numbers_is_not_a_column_of_classes(tmp_path):
    content = labeled(*map(str, range(10_001)))
    assert "more than 10,000 different labels; set data.label_column" in read_error(tmp_path / "x.csv", content)


LIMITS = {
    "bytes of a table": ("x.csv.gz", "MAX_BYTES", 2**12, gzip.compress(TABLE.encode() + b"AC,1,x\n" * 2**10)),
    "rows of a table": ("x.csv.gz", "MAX_ROWS", 100, gzip.compress(TABLE.encode() + b"AC,1,x\n" * 2**10)),
    "line of a table": ("x.csv.gz", "MAX_LENGTH", 2**10, gzip.compress(TABLE.encode() + b"A" * 2**12)),
    "header of a table": ("x.csv.gz", "MAX_LENGTH", 2**10, gzip.compress(b"A" * 2**12)),
    "bytes of FASTA": ("x.fa.gz", "MAX_BYTES", 2**12, gzip.compress(b">a|1\nACGT\n" * 2**10)),
    "rows of FASTA": ("x.fa.gz", "MAX_ROWS", 100, gzip.compress(b">a|1\nACGT\n" * 2**10)),
    "sequence of FASTA": ("x.fa.gz", "MAX_LENGTH", 2**10, gzip.compress(b">a|1\n" + b"ACGT\n" * 2**10)),
    "line of FASTA": ("x.fa.gz", "MAX_LENGTH", 2**10, gzip.compress(b">a|1\n" + b"A" * 2**12)),
    "header of FASTA": ("x.fa.gz", "MAX_LENGTH", 2**10, gzip.compress(b">" + b"A" * 2**12)),
}


@pytest.mark.parametrize("case", LIMITS)
def test_files_beyond_a_limit_are_permanent_errors(tmp_path, monkeypatch, case):
    name, limit, value, content = LIMITS[case]
    monkeypatch.setattr(rows, limit, value)
    assert f"more than {value:,}" in read_error(tmp_path / name, content)


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 2**16), ("MAX_ROWS", 1000), ("MAX_LENGTH", 512)])
def test_parquet_beyond_a_limit_is_a_permanent_error(tmp_path, monkeypatch, limit, value):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"sequence": ["A" * 1000] * 2000, "label": [0, 1] * 1000}), path)
    assert path.stat().st_size < 2**14
    monkeypatch.setattr(rows, limit, value)
    assert f"more than {value:,}" in read_error(path, path.read_bytes())


def write_zip(folder: Path, compression: int = ZIP_DEFLATED, name: str = "0", sequence: str = "ACGT") -> Path:
    path = folder / "human_enhancers_cohn_v0.zip"
    with ZipFile(path, "w", compression) as archive:
        for split in ("train", "test"):
            for kind in ("negative", "positive"):
                archive.writestr(f"human_enhancers_cohn/{split}/{kind}/{name}.txt", sequence)
    return path


def zip_error(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_task("gb/human_enhancers_cohn", folder=folder)
    assert not isinstance(caught.value, TransientError)
    return str(caught.value)


@pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 2**11), ("MAX_ROWS", 3), ("MAX_LENGTH", 512)])
@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
def test_archives_beyond_a_limit_are_permanent_errors(tmp_path, monkeypatch, packed, limit, value):
    path = write_zip(tmp_path, sequence="A" * 1000)
    if not packed:
        ZipFile(path).extractall(tmp_path)
        path.unlink()
        value = min(value, 1) if limit == "MAX_ROWS" else value
        for kind in ("negative", "positive"):
            (tmp_path / "human_enhancers_cohn" / "train" / kind / "1.txt").write_text("A" * 1000)
    monkeypatch.setattr(rows, limit, value)
    monkeypatch.setattr("ldarnet.tasks.publishers.MAX_LENGTH", rows.MAX_LENGTH)
    assert "than" in zip_error(tmp_path)


def test_a_zip_that_understates_its_size_unpacks_no_more(tmp_path):
    path = write_zip(tmp_path, sequence="A" * 2**20)
    content = path.read_bytes()
    path.write_bytes(content.replace((2**20).to_bytes(4, "little"), (2**10).to_bytes(4, "little")))
    assert "damaged or truncated" in zip_error(tmp_path)


@pytest.mark.parametrize("name", ["a:b", "a\\b", "\x1b[2J", "a" * 300])
def test_names_in_archives_are_plain_relative_paths(tmp_path, name):
    write_zip(tmp_path, name=name)
    assert "is not a plain relative path" in zip_error(tmp_path)


def test_paths_out_of_an_archive_are_not_read(tmp_path):
    write_zip(tmp_path, name="../../x")
    assert "no sequences of class 'negative'" in zip_error(tmp_path)
    with ZipFile(write_zip(tmp_path), "a") as archive:
        archive.writestr("../train/positive/1.txt", "ACGT")
    assert "'../train/positive/1.txt' is not a plain relative path" in zip_error(tmp_path)


def test_unsupported_archives_are_rejected(tmp_path):
    write_zip(tmp_path, ZIP_BZIP2)
    assert "0.txt: unsupported compression; use deflate" in zip_error(tmp_path)
    with ZipFile(write_zip(tmp_path), "a") as archive:
        archive.writestr("copy/train/positive/0.txt", "ACGT")
    assert "two files named train/positive/0.txt; remove one of them" in zip_error(tmp_path)
    write_zip(tmp_path, sequence="\ufeffACGT\r\n")
    data = open_task("gb/human_enhancers_cohn", folder=tmp_path)
    assert data.train.sequences == ["ACGT", "ACGT"]
    assert data.suite == find_task("gb/human_enhancers_cohn").suite
