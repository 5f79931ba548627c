"""Decompress gzip, bgzip, bzip2, xz and zstandard files piece by piece; formats are recognized by content.

A file may consist of several streams. Truncated streams, bgzip files without an end-of-file block, and data after the
last stream are errors, even though some other programs accept them.
"""

import bz2
import codecs
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from typing import Any, Protocol

from ldarnet.errors import UserError

_CHUNK = 2**17
_HEAD = 18
"""Bytes of a stream that identify it: a bgzip header has 18, other magic numbers are shorter."""
_ZSTD_CHUNK = 2**9  # decompresses to at most 16 MiB: blocks of 128 KiB take 4 bytes or more
_MAX_ZSTD_WINDOW = 2**27
_MAX_XZ_BYTES = 2**30
_TAR_MAGIC = slice(257, 262)


class _Stream(Protocol):
    """A decompressor of one stream, such as `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipStream:
    """A gzip stream."""

    def __init__(self) -> None:
        try:
            from isal import isal_zlib  # twice as fast, on the platforms that have it

            self._stream: Any = isal_zlib.decompressobj(31)
        except ImportError:
            self._stream = zlib.decompressobj(31)
        self._is_full = False

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail and not self._is_full

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        text = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._is_full = len(text) == max_length
        return text


class _ZstdStream:
    """A zstandard frame. Its decompressor cannot limit the output size, so the input is passed in small chunks."""

    def __init__(self) -> None:
        import zstandard

        self._stream = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW).decompressobj()
        self._data, self._at = b"", 0

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return self._at >= len(self._data)

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data + self._data[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._data, self._at = data, 0
        chunk = self._data[self._at : self._at + _ZSTD_CHUNK]
        self._at += len(chunk)
        return self._stream.decompress(chunk)


@dataclass(frozen=True, slots=True)
class _Format:
    """A compression format: its name, the magic numbers of its streams, and its decompressor."""

    name: str
    magic: tuple[bytes, ...]
    stream: Callable[[], _Stream]

    def begins(self, data: bytes) -> bool:
        """Whether ``data`` starts with a magic number or, if it is shorter than one, equals the start of one."""
        return any(magic.startswith(data[: len(magic)]) for magic in self.magic)


_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))
"""Magic numbers of skippable zstandard frames, which some files start with (RFC 8878, section 3.1.2)."""
_FORMATS = (
    _Format("gzip", (b"\x1f\x8b",), _GzipStream),
    _Format("bzip2", (b"BZh",), bz2.BZ2Decompressor),
    _Format("xz", (b"\xfd7zXZ\0",), lambda: lzma.LZMADecompressor(memlimit=_MAX_XZ_BYTES)),
    _Format("zstandard", (b"\x28\xb5\x2f\xfd", *_SKIPPABLE), _ZstdStream),
)


def decompressed(file: BufferedReader, where: str, piece: int) -> Iterator[bytes]:
    """Yield the whole content of a file in pieces; if the file is compressed, decompress it.

    Args:
        file: the file, at its start.
        where: path or URL of the file, for error messages.
        piece: maximum size of a piece, in bytes; ignored for zstandard data.

    Raises:
        UserError: the compressed data are truncated, damaged, or followed by other data.
    """
    head = file.peek(_HEAD)[:_HEAD]
    form = next((form for form in _FORMATS if head.startswith(form.magic)), None)
    if form is not None:
        yield from _streams(file, form, where, piece)
        return
    while data := file.read(piece):
        yield data


def _streams(file: BufferedReader, form: _Format, where: str, piece: int) -> Iterator[bytes]:
    """Yield the content of concatenated streams; skip zero padding between and after them."""
    again, total, head = "download the file again", 0, b""

    def read() -> bytes:
        nonlocal total
        data = file.read(_CHUNK)
        total += len(data)
        return data

    rest = read()
    while rest:
        while len(rest) < _HEAD and (more := read()):
            rest += more
        if not form.begins(rest):
            at = total - len(rest)
            raise UserError(f"{where}: has other data after the end of the {form.name} data (at byte {at:,}); {again}")
        head, stream, data = rest[:_HEAD], form.stream(), rest
        while not stream.eof:
            if stream.needs_input and not data and not (data := read()):
                raise UserError(f"{where}: truncated (it ends in the middle of the {form.name} data); {again}")
            try:
                text = stream.decompress(data, piece)
            except Exception as error:  # each decompressor has its own exception class
                raise UserError(f"{where}: {_fault(form, error)}") from None
            data = b""
            if text:
                yield text
        rest = stream.unused_data
        while not (rest := rest.lstrip(b"\0")) and (rest := read()):
            pass
    if _is_bgzip(head) and not _is_bgzip_end(head):
        raise UserError(f"{where}: truncated (it lacks the end-of-file block of bgzip); {again}")


def _fault(form: _Format, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    if "too much memory" in reason or "Memory usage limit" in reason or isinstance(error, MemoryError):
        return f"its {form.name} data need more memory than is allowed; compress it again with default settings"
    return f"damaged {form.name} data ({reason}); download the file again"


def _is_bgzip(head: bytes) -> bool:
    return head[:4] == b"\x1f\x8b\x08\x04" and head[12:16] == b"BC\x02\0"


def _is_bgzip_end(head: bytes) -> bool:
    """Whether a bgzip block has the size of the end-of-file block (SAM specification, section 4.1.2)."""
    return head[16:18] == b"\x1b\0"


def as_text(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    """Remove the byte order mark of a text, and convert CRLF and CR line ends, even if mixed, to LF.

    Raises:
        UserError: the text is UTF-16, or is not text but an archive or a decompressed .2bit file.
    """
    head = b""
    while len(head) < _TAR_MAGIC.stop and (data := next(pieces, None)) is not None:
        head += data
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{where}: UTF-16 text; save it as UTF-8")
    if is_2bit(head):
        raise UserError(
            f"{where}: a compressed .2bit file; if a genome is expected, decompress the file, otherwise choose "
            "another file"
        )
    if head.startswith(b"PK\x03\x04"):
        raise UserError(
            f"{where}: not text but a zip archive or a spreadsheet such as .xlsx; unpack it, or save it as text"
        )
    if head[_TAR_MAGIC] == b"ustar":
        raise UserError(f"{where}: not text but a tar archive; unpack it")
    end = b""
    for data in chain((head.removeprefix(codecs.BOM_UTF8),), pieces):
        if b"\r" not in data and not end:
            yield data
            continue
        data = end + data
        end = b"\r" if data.endswith(b"\r") else b""  # may be the first half of CRLF
        yield data.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if end:
        yield b"\n"


def is_2bit(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a UCSC .2bit file."""
    return head[:4] in (b"\x43\x27\x41\x1a", b"\x1a\x41\x27\x43")
