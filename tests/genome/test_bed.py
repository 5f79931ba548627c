import gzip
import lzma

import pytest

from ldarnet.errors import UserError
from ldarnet.genome.bed import BedInterval, _is_comment, read_bed

TEXT = "# comment\ntrack name=x\nb\t0\t50\tgene one\t900\t+\n\na 20 60 repeat\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_intervals_are_in_file_order_with_line_numbers(tmp_path, pack):
    path = tmp_path / "x.bed"
    path.write_bytes(pack(TEXT.encode()))
    assert list(read_bed(path)) == [BedInterval("b", 0, 50, 3), BedInterval("a", 20, 60, 5)]
    assert [interval.name for interval in read_bed(path, name="region")] == ["gene", "repeat"]


def test_a_name_may_contain_spaces_if_the_delimiter_is_a_tab(tmp_path):
    path = tmp_path / "x.bed"
    path.write_text("b\t0\t50\tgene one\n")
    assert [interval.name for interval in read_bed(path, name="region", delimiter="\t")] == ["gene one"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no intervals; write one line per interval: contig, start, end, split"),
        ("# comment\n", "no intervals"),
        ("a\t0\t10\n", r"line 1: not a BED line; write contig, start, end, split, separated by tabs"),
        ("a\t0\t10\t \n", "line 1: not a BED line"),
        ("a\t0\t10\ttrain\na\t0\tten\ttrain\n", "line 2: not a BED line"),
        ("a\t-1\t10\ttrain\n", "line 1: not a BED line"),
        ("a\t0\t" + "9" * 5000 + "\ttrain\n", "line 1: not a BED line"),
        ("a\t0\t\u0663\ttrain\n", "line 1: not a BED line"),
        ("chrom\tstart\tend\tname\na\t0\t9\ttrain\n", "line 1: not a BED line"),
        ("a\x1b[2J\t9\t9\ttrain\n", r"line 1: a\\x1b\[2J:9-9 is empty"),
        ("a\t10\t10\ttrain\n", r"line 1: a:10-10 is empty; start must be < end"),
    ],
)
def test_bad_lines_are_reported(tmp_path, text, message):
    (tmp_path / "x.bed").write_text(text)
    with pytest.raises(UserError, match=rf"x\.bed: {message}"):
        list(read_bed(tmp_path / "x.bed", name="split", delimiter="\t"))


def test_unreadable_files_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"absent\.bed: no such file"):
        list(read_bed(tmp_path / "absent.bed"))
    with pytest.raises(UserError, match="a folder, not a file"):
        list(read_bed(tmp_path))
    packed = bytearray(lzma.compress(TEXT.encode() * 999))
    packed[len(packed) // 2] ^= 255
    for content, fault in (
        (b"\x1f\x8b\xff", "truncated"),
        (b"\x1f\x8b\xff" + bytes(99), "damaged gzip data"),
        (gzip.compress(TEXT.encode() * 999)[:100], "truncated"),
        (bytes(packed), "damaged xz data"),
        (b"a\t0\t10\n\xff\t0\t10\n", "line 2: not UTF-8 text"),
        ("a\t0\t10\n".encode("utf-16"), "UTF-16 text"),
        (b"a" * 2**25, "line 1: longer than 16,777,216 bytes"),
    ):
        (tmp_path / "x.bed").write_bytes(content)
        with pytest.raises(UserError, match=rf"x\.bed: {fault}"):
            list(read_bed(tmp_path / "x.bed"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("first", ["", "# comment\n", "track name=x\n", "browser position a:1-2\n\n"])
def test_line_ends_byte_order_marks_and_headers_do_not_matter(tmp_path, end, encoding, pack, first):
    text = f"{first}a\t0\t50\tx\nb\t1\t2\ty"
    (tmp_path / "x.bed").write_bytes(pack(text.replace("\n", end).encode(encoding)))
    found = list(read_bed(tmp_path / "x.bed", name="region"))
    line = first.count("\n") + 1
    assert found == [BedInterval("a", 0, 50, line, "x"), BedInterval("b", 1, 2, line + 1, "y")]


def test_only_whole_keywords_mark_comments():
    assert all(map(_is_comment, ("", "  \n", "# x", "#x\t1\t2", "track name=x", "browser position", "track\tname")))
    assert not any(map(_is_comment, ("track1\t0\t10\ta", "browser_2 0 10", "chr1\t0\t10\ttrack")))
