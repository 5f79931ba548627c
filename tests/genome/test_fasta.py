import bz2
import errno
import gzip
import lzma
import os
import struct
import sys
import tracemalloc
import zlib
from itertools import cycle, groupby
from pathlib import Path

import numpy as np
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
    st.lists(st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n", "\r\r\n"]), min_size=1, max_size=7),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "\n"]),
    st.integers(1, 30),
)
def test_contigs_do_not_depend_on_line_ends_line_lengths_and_pieces(
    tmp_path, parts, ends, marked, last_end, before, piece
):
    lines = [line for name, comment, sequence in parts for line in (f">{name}{comment}", *sequence)]
    text = before + "".join(line + end for line, end in zip(lines, cycle(ends), strict=False))
    path = tmp_path / "x.fa"
    path.write_bytes((text if last_end else text.rstrip()).encode("utf-8-sig" if marked else "utf-8"))
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
    "bzip2 and no stream": (
        bz2.compress(TEXT) + b"BZx" + bz2.compress(TEXT)[3:],
        "other data after the end of the bzip2 data",
    ),
    "xz and no stream": (lzma.compress(TEXT) + b"a piece of text", "other data after the end of the xz data"),
    "damaged gzip": (gzip.compress(TEXT)[:-6] + b"xxxxxx", "damaged gzip data"),
}


EOF_BLOCK = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def bgzip_block(text: bytes) -> bytes:
    """A block of bgzip: a gzip member whose header holds its size (SAM specification, section 4.1)."""
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(text) + packer.flush()
    head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
    return head + body + struct.pack("<2I", zlib.crc32(text), len(text))


LONG = b">a\n" + np.random.default_rng(0).choice(np.frombuffer(b"ACGT", np.uint8), 2**19).tobytes() + b"\n"
PACK = {
    "gzip": gzip.compress,
    "bgzip": lambda text: b"".join(bgzip_block(text[at : at + 60000]) for at in range(0, len(text), 60000)) + EOF_BLOCK,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard.ZstdCompressor(write_checksum=True).compress,
}
CUT = {"gzip": 1, "bgzip": len(EOF_BLOCK) + 1, "bzip2": 1, "xz": 1, "zstandard": 1}


def packed_contigs(path: Path, content: bytes) -> list[tuple[str, str]]:
    path.write_bytes(content)
    return contigs(path)


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("members", [1, 2])
def test_compressed_files_that_end_as_their_format_says_are_read(tmp_path, kind, members):
    content = PACK[kind](LONG) if members == 1 else PACK[kind](LONG[:99]) + PACK[kind](LONG[99:])
    for tail in (b"", b"\0" * 512):
        assert packed_contigs(tmp_path / "x", content + tail) == [("a", LONG[3:-1].decode())]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("keep", [0.5, 0.999, -1])
@pytest.mark.parametrize("members", [1, 2])
def test_truncated_compressed_files_are_called_truncated(tmp_path, kind, keep, members):
    last = PACK[kind](LONG)
    last = last[: -CUT[kind]] if keep == -1 else last[: int(len(last) * keep)]
    name = "gzip" if kind == "bgzip" else kind
    with pytest.raises(UserError, match=rf"truncated \(it ends in the middle of the {name} data\)"):
        packed_contigs(tmp_path / "x", PACK[kind](TEXT) * (members - 1) + last)


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_file_that_ends_within_the_magic_number_of_its_next_stream_is_truncated(tmp_path, kind, size):
    with pytest.raises(UserError, match="truncated"):
        packed_contigs(tmp_path / "x", PACK[kind](TEXT) + PACK[kind](TEXT)[:size])


def test_a_bgzip_file_without_its_last_block_is_truncated(tmp_path):
    whole = PACK["bgzip"](LONG)
    with pytest.raises(UserError, match=r"truncated .* lacks the end-of-file block of bgzip"):
        packed_contigs(tmp_path / "x", whole[: -len(EOF_BLOCK)])
    blocks = [bgzip_block(TEXT[:9]), EOF_BLOCK, bgzip_block(TEXT[9:])]
    assert packed_contigs(tmp_path / "x", b"".join([*blocks, EOF_BLOCK])) == contigs_of_text()
    assert packed_contigs(tmp_path / "x", b"".join([*blocks, gzip.compress(b"")])) == contigs_of_text()


def contigs_of_text() -> list[tuple[str, str]]:
    return [("chrI", "ACGTNacgtn"), ("chrII", "RYKM")]


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("tail", [b"<html>", b"x", b"\0\0x", TEXT, b"\r\n"])
def test_other_data_after_the_last_stream_are_called_that(tmp_path, kind, tail):
    content = PACK[kind](TEXT)
    with pytest.raises(UserError, match="has other data after the end") as error:
        packed_contigs(tmp_path / "x", content + tail)
    assert f"(at byte {len(content) + len(tail) - len(tail.lstrip(bytes(1)))}" in str(error.value)
    assert "truncated" not in str(error.value)


@pytest.mark.parametrize("kind", PACK)
def test_damaged_compressed_data_are_called_damaged(tmp_path, kind):
    content = bytearray(PACK[kind](LONG))
    content[len(content) // 2] ^= 255
    with pytest.raises(UserError, match=r"damaged (gzip|bzip2|xz|zstandard) data"):
        packed_contigs(tmp_path / "x", bytes(content))


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_read_in_bounded_memory(tmp_path, kind):
    content = PACK[kind](b">a\n" + b"A" * 2**28 + b"\n")
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    try:
        assert sum(len(item) for item in read_fasta(tmp_path / "x") if isinstance(item, bytes)) == 2**28
        assert tracemalloc.get_traced_memory()[1] < 2**27
    finally:
        tracemalloc.stop()


def test_a_window_that_needs_too_much_memory_is_refused(tmp_path):
    frame = b"\x28\xb5\x2f\xfd\x00\xa8\x01\0\0"  # a window of 2 GiB, and an empty last block
    with pytest.raises(UserError, match="need more memory than is allowed; compress it again"):
        packed_contigs(tmp_path / "x", frame)


def test_without_isal_gzip_is_read_by_zlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "isal", None)
    assert packed_contigs(tmp_path / "x", PACK["bgzip"](LONG)) == [("a", LONG[3:-1].decode())]


def test_utf16_text_is_named(tmp_path):
    with pytest.raises(UserError, match="UTF-16 text; save it as UTF-8"):
        packed_contigs(tmp_path / "x", TEXT.decode().encode("utf-16"))


def test_a_line_number_counts_line_ends_of_every_kind(tmp_path):
    with pytest.raises(UserError, match="line 5: '!' is not a nucleotide code"):
        packed_contigs(tmp_path / "x", b">a\rAC\r\nGT\n\r\nA!\n")


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
