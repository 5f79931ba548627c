"""Reading FASTA text of any size in large pieces, with errors that name the line."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genome.iupac import IUPAC_CODES
from ldarnet.genome.sources import PIECE, Raw, text_pieces

_NEWLINE = ord("\n")
_SPACE = b" \t\r\n"
_LAST_SPACE = max(_SPACE)
_ALLOWED = IUPAC_CODES + IUPAC_CODES.lower()
_PROTEIN = b"EFILPQZXJO*"


@dataclass(frozen=True, slots=True)
class Header:
    """The header line of a contig.

    Attributes:
        name: its first word.
        offset: byte offset of its ``>`` in the file.
        line: line number, from 1.
        text: all of it without ``>``, stripped.
    """

    name: str
    offset: int
    line: int
    text: str


@dataclass(slots=True)
class _Place:
    """How far the text has been read, for messages: ``line`` counts from 1."""

    where: str
    line: int = 1

    def error(self, message: str, back: int = 0) -> UserError:
        return UserError(f"{self.where}: line {self.line - back}: {message}")


def read_fasta(path: Path, piece: int = PIECE) -> Iterator[str | bytes]:
    """Read a FASTA file, plain or compressed (gzip, bgzip, zstandard, bzip2, xz).

    Args:
        path: the file.
        piece: bytes decompressed at a time.

    Yields:
        The name of a contig (the first word of its header) as ``str``, then its letters as ``bytes`` in one or more
        pieces, in the case and IUPAC codes of the file.

    Raises:
        UserError: the file is missing, empty, truncated, not FASTA, holds letters that are no nucleotide codes, or a
            contig without a name or without bases.
    """
    with Raw(str(path)) as raw:
        for item in parse_fasta(str(path), text_pieces(raw, piece)):
            yield item.name if isinstance(item, Header) else item


def read_records(path: Path) -> Iterator[tuple[Header, str]]:
    """Read a FASTA file contig by contig; same formats and errors as `read_fasta`.

    Yields:
        The header and the whole sequence of each contig, in the case of the file.
    """
    with Raw(str(path)) as raw:
        header, parts = None, list[bytes]()
        for item in parse_fasta(str(path), text_pieces(raw)):
            if not isinstance(item, Header):
                parts.append(item)
                continue
            if header is not None:
                yield header, b"".join(parts).decode("ascii")
            header, parts = item, []
        assert header is not None
        yield header, b"".join(parts).decode("ascii")


def read_contigs(path: Path) -> Iterator[tuple[str, str]]:
    """Name and sequence of each contig of a FASTA file; same formats and errors as `read_fasta`."""
    return ((header.name, sequence) for header, sequence in read_records(path))


def parse_fasta(where: str, pieces: Iterable[bytes], *, offset: int = 0, line: int = 1) -> Iterator[Header | bytes]:
    """Find the contigs in FASTA text.

    Memory stays at a few pieces however long a contig or a line is. Whole pieces are checked and joined by byte-string
    methods: several times the speed of a reader that makes one string of each record, and a bad letter can be traced to
    its line.

    Args:
        where: what the text is called in messages.
        pieces: the text, cut anywhere.
        offset: place of its first byte in the file; other than 0, it begins with a header.
        line: number of its first line.

    Yields:
        The header of a contig, then its letters in one or more pieces.

    Raises:
        UserError: the text is empty, cut within a header or no FASTA, or holds letters that are no nucleotide codes, or
            a contig without a name or without bases.
    """
    place = _Place(where, line)
    name: str | None = None
    bases, line_start = 0, True
    for header, data, at in _lines(pieces, offset):
        if header:
            _demand_bases(place, name, bases, back=True)
            if not data.endswith(b"\n"):
                raise place.error("the file ends within a header; it is truncated, fetch it again")
            text, bases = _header_text(place, data), 0
            name = text.split(maxsplit=1)[0]
            yield Header(name, at, place.line, text)
            place.line += 1
            continue
        line_start = data.endswith(b"\n")
        if letters := _letters(place, data, started=name is not None):
            bases += len(letters)
            yield letters
    if name is None:
        raise UserError(f"{where}: empty; name a FASTA file with at least one contig")
    _demand_bases(place, name, bases, back=line_start)


def find_parts(pieces: Iterable[bytes], part_size: int) -> list[tuple[int, int]]:
    """Where parts begin in FASTA text, and where it ends: each in bytes, and in lines from 1.

    Each part but the last ends with the first contig end after ``part_size`` letters. The text is not checked.
    """
    starts, letters, end, line = [(0, 1)], 0, 0, 1
    for header, data, at in _lines(pieces, 0):
        if not header:
            characters = np.frombuffer(data, dtype=np.uint8)
            letters += int(np.count_nonzero(characters > _LAST_SPACE))
            line += int(np.count_nonzero(characters == _NEWLINE))
        else:
            if letters >= part_size:
                starts.append((at, line))
                letters = 0
            line += 1
        end = at + len(data) + header
    return [*starts, (end, line)]


def _lines(pieces: Iterable[bytes], offset: int) -> Iterator[tuple[bool, bytes, int]]:
    """Headers, each whole, without ``>`` and with its line end, and what lies between, in pieces.

    Yields:
        Whether it is a header, the text, and its place in the file: for a header, that of its ``>``.
    """
    header: bytes | None = None
    begin_of_header, line_start = 0, True
    for data in pieces:
        at = 0
        while at < len(data):
            if header is not None:
                end = data.find(b"\n", at) + 1 or len(data)
                header += data[at:end]
                at = end
                if header.endswith(b"\n"):
                    yield True, header, begin_of_header
                    header, line_start = None, True
                continue
            begin = data.find(b">", at)
            if begin < 0 or not (line_start if begin == at else data[begin - 1] == _NEWLINE):
                begin = len(data)
            if begin > at:
                line_start = data[begin - 1] == _NEWLINE
                yield False, data[at:begin], offset + at
            if begin < len(data):
                begin_of_header = offset + begin
                header, begin = b"", begin + 1
            at = begin
        offset += len(data)
    if header is not None:
        yield True, header, begin_of_header


def _header_text(place: _Place, header: bytes) -> str:
    if not header.strip() or header[:1].isspace():
        raise place.error("a header without a name; write the contig's name after '>'")
    try:
        return header.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise place.error("a header that is no UTF-8 text; rename the contig") from None


def _letters(place: _Place, body: bytes, *, started: bool) -> bytes:
    """The letters of some sequence lines, checked."""
    if not started and body.strip():
        before = len(body) - len(body.lstrip())
        place.line += body.count(b"\n", 0, before)
        first = body[before : before + 20].split(b"\n")[0].decode("latin-1")
        hint = "is it FASTQ? convert it to FASTA" if first[0] == "@" else "choose a FASTA file"
        raise place.error(f"not FASTA: starts with {first!r}, not '>'; {hint}")
    letters = body.replace(b"\n", b"")
    lines = len(body) - len(letters)
    if others := letters.translate(None, _ALLOWED):
        if wrong := others.translate(None, _SPACE):
            _refuse(place, body, wrong[:1])
        letters = letters.translate(None, _SPACE)
    place.line += lines
    return letters


def _refuse(place: _Place, body: bytes, letter: bytes) -> None:
    place.line += body.count(b"\n", 0, body.index(letter))
    kind = (
        "it looks like a protein FASTA, give nucleotide sequences"
        if letter.upper() in _PROTEIN
        else "remove it or write N"
    )
    raise place.error(f"{letter.decode('latin-1')!r} is no nucleotide code; {kind}")


def _demand_bases(place: _Place, name: str | None, bases: int, *, back: bool) -> None:
    if name is not None and not bases:
        raise place.error(f"contig {name!r} has no bases; remove its header", back=back)
