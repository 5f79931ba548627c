import bz2
import errno
import gzip
import lzma
import os
from itertools import groupby
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ldarnet.errors import UserError
from ldarnet.genome.fasta import Header, read_contigs, read_fasta, read_records


def contigs(path: Path, piece: int = 2**20) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for is_name, run in groupby(read_fasta(path, piece), key=lambda item: isinstance(item, Header)):
        if is_name:
            found += [(header.name, "") for header in run]
        else:
            found[-1] = (found[-1][0], b"".join(run).decode())
    return found


records = st.lists(
    st.tuples(
        st.text("abcXYZ_.|-0123456789é>", min_size=1, max_size=6),
        st.sampled_from(["", " a comment", "\twith > inside"]),
        st.lists(st.text("ACGTNRYKMSWBDHVUacgtnrykm", min_size=1, max_size=12), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records,
    st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
    st.booleans(),
    st.sampled_from(["", "\n"]),
    st.integers(1, 30),
)
def test_contigs_do_not_depend_on_line_lengths_and_pieces(tmp_path, parts, end, last_end, before, piece):
    text = before + "".join(f">{name}{comment}{end}{end.join(lines)}{end}" for name, comment, lines in parts)
    path = tmp_path / "x.fa"
    path.write_bytes((text if last_end else text.rstrip()).encode())
    assert contigs(path, piece) == [(name, "".join(lines)) for name, _, lines in parts]


TEXT = b">chrI one\nACGTN\nacgtn\n>chrII\nRYKM\n"
EMPTY_FRAME = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"  # a skippable frame, as pzstd writes
PACKED = {
    "x.fa": TEXT,
    "x.fa.gz": gzip.compress(TEXT),
    "x.fa.bgz": gzip.compress(TEXT[:15]) + gzip.compress(TEXT[15:]) + gzip.compress(b""),
    "x.fa.zst": zstandard.compress(TEXT[:15]) + zstandard.compress(TEXT[15:]),
    "several.zst": EMPTY_FRAME + zstandard.compress(TEXT[:15]) + EMPTY_FRAME + zstandard.compress(TEXT[15:]),
    "x.fa.bz2": bz2.compress(TEXT),
    "several.bz2": bz2.compress(TEXT[:15]) + bz2.compress(TEXT[15:]),
    "x.fa.xz": lzma.compress(TEXT),
    "several.xz": lzma.compress(TEXT[:15]) + b"\0" * 8 + lzma.compress(TEXT[15:]) + b"\0" * 4,
    "x.fna": gzip.compress(TEXT),
}


@pytest.mark.parametrize("name", PACKED)
def test_compressed_files_equal_plain_ones(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    assert contigs(tmp_path / name) == [("chrI", "ACGTNacgtn"), ("chrII", "RYKM")]


def test_contigs_are_read_with_their_headers(tmp_path):
    (tmp_path / "x.fa.gz").write_bytes(gzip.compress(TEXT))
    assert list(read_contigs(tmp_path / "x.fa.gz")) == [("chrI", "ACGTNacgtn"), ("chrII", "RYKM")]
    headers = [header for header, _ in read_records(tmp_path / "x.fa.gz")]
    assert [(header.text, header.line) for header in headers] == [("chrI one", 1), ("chrII", 4)]


BAD = {
    "empty file": (b"", "empty"),
    "empty gzip": (gzip.compress(b""), "empty"),
    "blank lines": (b"\n \n", "empty"),
    "text": (b"\n\nchr1 1 20\n", "line 3: not FASTA: starts with 'c[^']*', not '>'"),
    "FASTQ": (b"@read\nACGT\n+\nIIII\n", "line 1: not FASTA: starts with '@[^']*'.* FASTQ"),
    "protein": (
        b">p\nACG\nMKVLAT\n",
        "line 3: 'L' is not a nucleotide code; if this is a protein FASTA, use the nucleotide FASTA instead",
    ),
    "stop codon": (b">p\nACG*\n", "line 2: '\\*' is not a nucleotide code; if this is a protein FASTA, use"),
    "gap": (b">a\nACGT\n\nAC-GT\n", "line 4: '-' is not a nucleotide code; remove it or write N"),
    "late header": (b">a\nACGT>b\nA\n", "line 2: '>' is not a nucleotide code"),
    "binary": (b">a\nAC\xff\n", "line 2: 'ÿ' is not a nucleotide code"),
    "no name": (b">a\nA\n>\nA\n", "line 3: header without a name"),
    "space before the name": (b"> a\nA\n", "line 1: header without a name"),
    "no bases": (b">a\nA\n>b\n>c\nA\n", "line 3: contig 'b' has no bases"),
    "no bases at the end": (b">a\nA\n>b\n", "line 3: contig 'b' has no bases"),
    "cut header": (b">a\nA\n>chr", "line 3: the file ends within a header"),
    "truncated gzip": (gzip.compress(TEXT * 50)[:-9], "truncated"),
    "truncated zstandard": (zstandard.compress(TEXT * 50)[:-9], "truncated"),
    "truncated bzip2": (bz2.compress(TEXT * 50)[:-9], "truncated"),
    "truncated xz": (lzma.compress(TEXT * 50) + lzma.compress(TEXT)[:-9], "truncated"),
    "bzip2 and no stream": (bz2.compress(TEXT) + b"BZx" + bz2.compress(TEXT)[3:], "cannot be read"),
    "xz and no stream": (lzma.compress(TEXT) + b"a piece of text", "cannot be read"),
    "damaged gzip": (gzip.compress(TEXT)[:-6] + b"xxxxxx", "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("piece", [3, 2**20])
def test_bad_input_is_reported_with_file_line_and_hint(tmp_path, case, piece):
    content, message = BAD[case]
    path = tmp_path / "bad.fa"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(read_fasta(path, piece))
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"absent\.fa: no such file"):
        list(read_fasta(tmp_path / "absent.fa"))
    with pytest.raises(UserError, match="a folder, not a file"):
        list(read_fasta(tmp_path))


def test_a_file_without_read_permission_is_reported(tmp_path, monkeypatch):
    (tmp_path / "x.fa").write_bytes(TEXT)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"x\.fa: no permission to read it; change its mode or owner"):
        list(read_fasta(tmp_path / "x.fa"))
