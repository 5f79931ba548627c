"""Streaming FASTA parser for files of any size; errors state the line number."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.genome.iupac import IUPAC_CODES
from ldarnet.genome.sources import PIECE, Header, RawFile, text_pieces
from ldarnet.genome.twobit import read_2bit

_NEWLINE = ord("\n")
_SPACE = b" \t\r\n"
_ALLOWED = IUPAC_CODES + IUPAC_CODES.lower()
_PROTEIN = b"EFILPQZXJO*"


@dataclass(slots=True)
class _Location:
    """File name and current line number (from 1), for error messages."""

    where: str
    line: int = 1

    def error(self, message: str, back: int = 0) -> UserError:
        return UserError(f"{self.where}: line {self.line - back}: {message}")


def read_fasta(path: Path, piece: int = PIECE) -> Iterator[Header | bytes]:
    """Read a FASTA file, plain or compressed (gzip, bgzip, zstandard, bzip2, xz), or a .2bit file, in constant memory.

    Formats are recognized by content, not by the file name.

    Args:
        path: path of the file.
        piece: bytes to decompress at a time.

    Yields:
        The header of each contig, then its sequence in one or more pieces, with the case and IUPAC codes of the file.

    Raises:
        UserError: the file is missing, empty or truncated, is neither FASTA nor .2bit, has a character that is not a
            nucleotide code, or has a contig without a name or without bases.
    """
    with RawFile(str(path)) as raw:
        yield from read_2bit(path) if raw.is_2bit() else parse_fasta(str(path), text_pieces(raw, piece))


def read_records(path: Path) -> Iterator[tuple[Header, str]]:
    """Yield the header and the whole sequence of each contig; formats and errors are those of `read_fasta`."""
    header, parts = None, list[bytes]()
    for item in read_fasta(path):
        if not isinstance(item, Header):
            parts.append(item)
            continue
        if header is not None:
            yield header, b"".join(parts).decode("ascii")
        header, parts = item, []
    assert header is not None
    yield header, b"".join(parts).decode("ascii")


def read_contigs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the whole sequence of each contig; formats and errors are those of `read_fasta`."""
    return ((header.name, sequence) for header, sequence in read_records(path))


def parse_fasta(where: str, pieces: Iterable[bytes]) -> Iterator[Header | bytes]:
    """Parse FASTA text.

    Memory use is a few pieces, regardless of contig and line lengths. Pieces are validated and joined with methods of
    `bytes`, which is several times as fast as building one string per record.

    Args:
        where: name of the file, for error messages.
        pieces: the text, split at arbitrary positions.

    Yields:
        The header of each contig, then its sequence in one or more pieces.

    Raises:
        UserError: the text is empty, ends within a header, is not FASTA, has a character that is not a nucleotide code,
            or has a contig without a name or without bases.
    """
    location = _Location(where)
    name: str | None = None
    bases, line_start = 0, True
    for is_header, data in _lines(pieces):
        if is_header:
            _check_bases(location, name, bases, back=True)
            if not data.endswith(b"\n"):
                raise location.error("the file ends within a header, so it is truncated; download it again")
            text, bases = _header_text(location, data), 0
            name = text.split(maxsplit=1)[0]
            yield Header(name, location.line, text)
            location.line += 1
            continue
        line_start = data.endswith(b"\n")
        if sequence := _sequence(location, data, started=name is not None):
            bases += len(sequence)
            yield sequence
    if name is None:
        raise UserError(f"{where}: empty; choose a FASTA or .2bit file with at least one contig")
    _check_bases(location, name, bases, back=line_start)


def _lines(pieces: Iterable[bytes]) -> Iterator[tuple[bool, bytes]]:
    """Separate header lines from the sequence text between them.

    Yields:
        (True, one whole header line without ``>``, with its newline) or (False, a piece of sequence text).
    """
    header: bytes | None = None
    line_start = True
    for data in pieces:
        at = 0
        while at < len(data):
            if header is not None:
                end = data.find(b"\n", at) + 1 or len(data)
                header += data[at:end]
                at = end
                if header.endswith(b"\n"):
                    yield True, header
                    header, line_start = None, True
                continue
            begin = data.find(b">", at)
            if begin < 0 or not (line_start if begin == at else data[begin - 1] == _NEWLINE):
                begin = len(data)
            if begin > at:
                line_start = data[begin - 1] == _NEWLINE
                yield False, data[at:begin]
            if begin < len(data):
                header, begin = b"", begin + 1
            at = begin
    if header is not None:
        yield True, header


def _header_text(location: _Location, header: bytes) -> str:
    if not header.strip() or header[:1].isspace():
        raise location.error("header without a name; write the contig name after '>'")
    try:
        return header.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise location.error("header is not UTF-8 text; rename the contig") from None


def _sequence(location: _Location, body: bytes, *, started: bool) -> bytes:
    """Validate lines of sequence text and remove the line breaks."""
    if not started and body.strip():
        before = len(body) - len(body.lstrip())
        location.line += body.count(b"\n", 0, before)
        first = body[before : before + 20].split(b"\n")[0].decode("latin-1")
        hint = "is it FASTQ? convert it to FASTA" if first[0] == "@" else "choose a FASTA or .2bit file"
        raise location.error(f"not FASTA: starts with {first!r}, not '>'; {hint}")
    sequence = body.replace(b"\n", b"")
    lines = len(body) - len(sequence)
    if others := sequence.translate(None, _ALLOWED):
        if wrong := others.translate(None, _SPACE):
            raise _code_error(location, body, wrong[:1])
        sequence = sequence.translate(None, _SPACE)
    location.line += lines
    return sequence


def _code_error(location: _Location, body: bytes, code: bytes) -> UserError:
    location.line += body.count(b"\n", 0, body.index(code))
    protein = "if this is a protein FASTA, use the nucleotide FASTA instead; otherwise remove it or write N"
    hint = protein if code.upper() in _PROTEIN else "remove it or write N"
    return location.error(f"{code.decode('latin-1')!r} is not a nucleotide code; {hint}")


def _check_bases(location: _Location, name: str | None, bases: int, *, back: bool) -> None:
    if name is not None and not bases:
        raise location.error(f"contig {name!r} has no bases; remove its header", back=back)
