"""Every reader of text files: line ends, byte order marks, compression, truncation, and files of other formats."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import zstandard

from ldarnet.data.contig_names import translation
from ldarnet.errors import TransientError, UserError
from ldarnet.genome.bed import read_bed
from ldarnet.genome.fasta import read_contigs
from ldarnet.genome.gff import is_gff, read_gff
from ldarnet.genome.sources import read_genomes
from ldarnet.tasks import open_task
from ldarnet.tasks.coordinates import _read_rows
from sharding.splits import parse_contig_splits, read_splits_bed
from tests.support.twobit_writer import write_2bit

Reader = Callable[[Path], Any]


def read_task(path: Path) -> Any:
    rows = open_task(None, train=path).train
    return rows.names, rows.sequences, rows.labels.tolist()


READERS: dict[str, tuple[str, str, Reader]] = {
    "FASTA": ("x.fa", ">a one\nACGTN\nacgt\n>b\nRYKM\n", lambda path: list(read_contigs(path))),
    "labeled FASTA": ("x.fa", ">a|0\nACGT\nGG\n>b|1\nGGGG\n", read_task),
    "csv": ("x.csv", 'name,sequence,label\n"a",ACGT,no\nb,GGGG,yes\n', read_task),
    "tsv": ("x.tsv", 'name\tsequence\tlabel\n"a"\tACGT\t0\nb\tGGGG\t1\n', read_task),
    "coordinates": (
        "x.csv",
        "id,region,start,end,strand\na,chr1,1,5,+\nb,chr1,6,9,\n",
        lambda p: _read_rows(p, "k", "n"),
    ),
    "BED": (
        "x.bed",
        "# comment\ntrack name=x\na\t0\t50\tgene\na\t60\t70\trepeat\n",
        lambda p: list(read_bed(p, name="x")),
    ),
    "BED of splits": ("x.bed", "a\t0\t50\ttrain\nb\t60\t70\tvalid\n", read_splits_bed),
    "GFF3": ("x.gff3", "##gff-version 3\na\tx\tgene\t1\t9\t.\t+\t.\tID=1\n", lambda p: (is_gff(p), *read_gff(p))),
    "GFF3 without a version": ("x.gff", "a\tx\tgene\t1\t9\t.\t+\t.\tID=1\n", lambda p: (is_gff(p), *read_gff(p))),
    "contig names": ("x.tsv", "# UCSC\tEnsembl\nchr1\t1\nchr2\t2\n", translation),
    "genomes": ("x.tsv", "# species\tfile\nfly\tfly.fa\nworm\thttps://host/worm.fa\n", read_genomes),
    "names of a split": ("x.txt", "chr1\nchr2 chr3\n", lambda path: parse_contig_splits([f"valid=@{path}"])),
}
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard.compress,
    "two gzip members": lambda text: gzip.compress(text[:7]) + gzip.compress(text[7:]),
}
PACKED = [name for name in COMPRESSIONS if name != "plain"]


def read(folder: Path, kind: str, content: bytes) -> Any:
    name, _, reader = READERS[kind]
    (folder / name).write_bytes(content)
    return reader(folder / name)


def error(folder: Path, kind: str, content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, kind, content)
    message = str(caught.value)
    assert not isinstance(caught.value, TransientError)
    assert str(folder / READERS[kind][0]) in message and "\n" not in message
    return message


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("kind", READERS)
def test_line_ends_byte_order_marks_and_compression_do_not_change_the_content(tmp_path, kind, end, compression):
    text = READERS[kind][1]
    expected = read(tmp_path, kind, text.encode())
    assert expected
    for mark in ("", "\ufeff"):
        for last in ("\n", "", "\n\n"):
            variant = (mark + text.removesuffix("\n") + last).replace("\n", LINE_ENDS[end])
            assert read(tmp_path, kind, COMPRESSIONS[compression](variant.encode())) == expected


@pytest.mark.parametrize("compression", PACKED)
@pytest.mark.parametrize("kind", READERS)
def test_truncated_files_are_called_truncated(tmp_path, kind, compression):
    content = COMPRESSIONS[compression](READERS[kind][1].encode())
    for size in (3, -6, -1):
        assert "truncated" in error(tmp_path, kind, content[:size])


def zipped(text: bytes) -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("x", text)
    return file.getvalue()


def tarred(text: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("x")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return file.getvalue()


OTHER_FORMATS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "UTF-16": (lambda text: text.decode().encode("utf-16"), "UTF-16 text; save it as UTF-8"),
    "UTF-16, big-endian": (lambda text: b"\xfe\xff" + text.decode().encode("utf-16-be"), "UTF-16 text"),
    "zip": (zipped, "not text but a zip archive or a spreadsheet"),
    "tar": (tarred, "not text but a tar archive; unpack it"),
    "tar.gz": (lambda text: gzip.compress(tarred(text)), "not text but a tar archive; unpack it"),
    "data after gzip": (lambda text: gzip.compress(text) + b"<html>", "other data after the end of the gzip data"),
    "twice compressed": (lambda text: gzip.compress(gzip.compress(text)), ""),
    "Latin-1": (lambda text: text + b"\xfc\n", ""),
    "random bytes": (lambda text: np.random.default_rng(0).bytes(999), ""),
    "empty": (lambda text: b"", ""),
    "only a byte order mark": (lambda text: b"\xef\xbb\xbf", ""),
    "only line ends": (lambda text: b"\r\n\n\r", ""),
}


@pytest.mark.parametrize("form", OTHER_FORMATS)
@pytest.mark.parametrize("kind", READERS)
def test_files_of_other_formats_are_one_line_errors(tmp_path, kind, form):
    convert, message = OTHER_FORMATS[form]
    assert message in error(tmp_path, kind, convert(READERS[kind][1].encode()))


@pytest.mark.parametrize("kind", READERS)
def test_a_2bit_file_is_named_unless_the_reader_accepts_it(tmp_path, kind):
    write_2bit(tmp_path / "x.2bit", {"a": "ACGT", "b": "GG"})
    content = (tmp_path / "x.2bit").read_bytes()
    if kind == "FASTA":
        assert read(tmp_path, kind, content) == [("a", "ACGT"), ("b", "GG")]
    else:
        assert "a .2bit file, but text is expected; choose another file" in error(tmp_path, kind, content)
    message = "a compressed .2bit file; if a genome is expected, decompress the file, otherwise choose another file"
    assert message in error(tmp_path, kind, gzip.compress(content))
