"""Reading FASTA files of any size in large pieces, with errors that name the line."""

from collections.abc import Iterator
from pathlib import Path

from xopen import xopen

from ldarnet.data.format import LETTERS
from ldarnet.errors import UserError
from ldarnet.files import file_size, read_errors

_PIECE = 2**20
_NEWLINE = ord("\n")
_SPACE = b" \t\r\n"
_ALLOWED = LETTERS + LETTERS.lower() + _SPACE
_PROTEIN = b"EFILPQZXJO*"


def read_fasta(path: Path, piece: int = _PIECE) -> Iterator[str | bytes]:
    """Read a FASTA file, plain or compressed (gzip, bgzip, zstandard, bzip2, xz).

    Memory stays at a few pieces however long a contig or a line is. Whole pieces are checked and joined by byte-string
    methods: several times the speed of a reader that makes one string of each record, and a bad letter can be traced to
    its line.

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
    name: str | None = None
    bases = 0
    header: bytes | None = None
    offset, line_start = 0, True
    for data in _read(path, piece):
        at = 0
        while at < len(data):
            if header is not None:
                end = data.find(b"\n", at)
                header += data[at:] if end < 0 else data[at:end]
                at = len(data) if end < 0 else end + 1
                if end >= 0:
                    name, header, bases, line_start = _name(path, header, offset + end), None, 0, True
                    yield name
                continue
            begin = data.find(b">", at)
            if begin < 0 or not (line_start if begin == at else data[begin - 1] == _NEWLINE):
                begin = len(data)
            if begin > at:
                body = data[at:begin]
                line_start = body.endswith(b"\n")
                letters = _letters(path, body, offset + at, started=name is not None)
                bases += len(letters)
                if letters:
                    yield letters
            if begin < len(data):
                _demand_bases(path, name, bases, offset + begin)
                header, begin = b"", begin + 1
            at = begin
        offset += len(data)
    if header is not None:
        raise UserError(
            f"{path}: line {_line(path, offset)}: the file ends within a header; it is truncated, fetch it again"
        )
    if name is None:
        raise UserError(f"{path}: empty; name a FASTA file with at least one contig")
    _demand_bases(path, name, bases, offset)


def _read(path: Path, piece: int) -> Iterator[bytes]:
    """The decompressed bytes of a file, piece by piece."""
    if file_size(path) == 0:
        raise UserError(f"{path}: empty; name a FASTA file with at least one contig")
    with read_errors(path):
        path.open("rb").close()
    try:
        with xopen(path, "rb", threads=0) as file:
            while data := file.read(piece):
                yield data
    except EOFError:
        raise UserError(f"{path}: the compressed data end too early; the file is truncated, fetch it again") from None
    except Exception as error:
        # Each decompressor has an exception class of its own.
        raise UserError(f"{path}: cannot be read ({error}); it is damaged or misnamed, fetch it again") from None


def _name(path: Path, header: bytes, offset: int) -> str:
    words = header.split(maxsplit=1)
    if not words or header[:1].isspace():
        raise UserError(
            f"{path}: line {_line(path, offset)}: a header without a name; write the contig's name after '>'"
        )
    try:
        return words[0].decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(
            f"{path}: line {_line(path, offset)}: a header that is no UTF-8 text; rename the contig"
        ) from None


def _letters(path: Path, body: bytes, offset: int, *, started: bool) -> bytes:
    """The letters of some sequence lines, checked."""
    if not started and body.strip():
        at = offset + len(body) - len(body.lstrip())
        first = chr(body.lstrip()[0])
        kind = "it looks like FASTQ, convert it to FASTA" if first == "@" else "name a FASTA file"
        raise UserError(f"{path}: line {_line(path, at)}: not FASTA, it begins with {first!r} in place of '>'; {kind}")
    if wrong := body.translate(None, _ALLOWED):
        letter = wrong[:1]
        kind = (
            "it looks like a protein FASTA, give nucleotide sequences"
            if letter.upper() in _PROTEIN
            else "remove it or write N"
        )
        line = _line(path, offset + body.index(letter))
        raise UserError(f"{path}: line {line}: {letter.decode('latin-1')!r} is no nucleotide code; {kind}")
    letters = body.replace(b"\n", b"")
    return letters.translate(None, _SPACE) if any(space in letters for space in (b"\r", b" ", b"\t")) else letters


def _demand_bases(path: Path, name: str | None, bases: int, offset: int) -> None:
    if name is not None and not bases:
        raise UserError(f"{path}: line {_line(path, offset - 1)}: contig {name!r} has no bases; remove its header")


def _line(path: Path, offset: int) -> int:
    """The line, from 1, that holds a byte of the decompressed file."""
    line = 1
    for data in _read(path, _PIECE):
        line += data.count(b"\n", 0, max(0, offset))
        offset -= len(data)
        if offset <= 0:
            break
    return line
