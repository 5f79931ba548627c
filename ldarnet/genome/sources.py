"""Input genome files: local paths or URLs, plain or compressed, each with an optional species name."""

import contextlib
import hashlib
import io
import queue
import re
import tempfile
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ldarnet.errors import UserError, refuse_credentials
from ldarnet.genome.compression import as_text, decompressed, is_2bit
from ldarnet.io.files import file_size, read_errors, space_errors
from ldarnet.io.retry import Retry, ShortReadError, call_remote
from ldarnet.io.storage import http_headers

PIECE = 2**20
MAX_LINE_BYTES = 2**24
"""Maximum length of a line of a text file other than FASTA."""
REMOTE_RETRY = Retry()
"""Retry policy for remote sources."""

_SPECIES = re.compile(r"([^/=\s]+)=(.+)")
_STREAMED = {"block_size": 0}
_VERSIONS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "mtime")


@dataclass(frozen=True, slots=True)
class Header:
    """The header line of a contig.

    Attributes:
        name: first word of the header.
        line: line number, from 1.
        text: the whole line without ``>``, stripped.
    """

    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class SequenceSource:
    """One input file.

    Attributes:
        location: path or URL.
        species: species name; "" if not given.
    """

    location: str
    species: str = ""

    def __post_init__(self) -> None:
        """Refuse URLs that contain credentials, because shard sets and unfinished builds record the URLs."""
        refuse_credentials(self.location, "input genome")

    @property
    def remote(self) -> bool:
        """Whether the location is a URL, read through fsspec."""
        return "://" in self.location

    @property
    def name(self) -> str:
        """File name without its folder, as recorded in a shard set."""
        return self.location.rstrip("/").rsplit("/", 1)[-1]

    def absolute(self) -> "SequenceSource":
        """Copy of this source with an absolute path, for processes with a different working directory."""
        return self if self.remote else replace(self, location=str(Path(self.location).absolute()))

    def identity(self) -> dict[str, Any]:
        """Location, size and version (modification time or ETag), to detect a changed file without reading it.

        Raises:
            UserError: no such file.
        """
        if not self.remote:
            size = file_size(Path(self.location))
            version = str(Path(self.location).stat().st_mtime_ns)
        else:
            info = _remote_info(self.location)
            size = info.get("size")
            version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
        return {"location": self.location, "size": size, "version": version}


def parse_source(argument: str) -> SequenceSource:
    """Parse ``PATH`` or ``SPECIES=PATH``; a ``PATH`` that contains ``=`` must include a folder, as in ``./a=b.fa``."""
    match = _SPECIES.fullmatch(argument)
    return SequenceSource(match[2], match[1]) if match else SequenceSource(argument)


def read_genomes(path: Path) -> list[SequenceSource]:
    """Read a table with lines ``species<TAB>path or URL``; relative paths are relative to the folder of the table.

    Raises:
        UserError: the table is missing or empty, or a line is malformed or contains credentials.
    """
    sources = []
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        species, _, location = (word.strip() for word in line.partition("\t"))
        if not location.isprintable() or not location or not _SPECIES.fullmatch(f"{species}=x"):
            raise UserError(
                f"{path}: line {number}: malformed; write the species, a tab, and the path or URL (the species must "
                "not contain whitespace, '/' or '=')"
            )
        refuse_credentials(location, f"{path}: line {number}")
        sources.append(SequenceSource(location if "://" in location else str(path.parent / location), species))
    if not sources:
        raise UserError(f"{path}: empty; write one line per genome: species, tab, path or URL")
    return sources


class RawFile(io.RawIOBase):
    """Raw bytes of a file or URL, not decompressed, hashed as they are read.

    Attributes:
        count: bytes read so far.
        digest: running SHA-256 of the bytes read so far.
    """

    def __init__(self, location: str) -> None:
        """Open a path or URL.

        Raises:
            UserError: the file is missing, or there is no permission to read it.
        """
        super().__init__()
        self.location = location
        self.count = 0
        self.digest = hashlib.sha256()
        self._head = b""
        if "://" in location:
            self._file: Any = _RemoteFile(location)
        else:
            file_size(Path(location))
            with read_errors(Path(location)):
                self._file = Path(location).open("rb", buffering=0)  # noqa: SIM115

    def readable(self) -> bool:
        """Return True, because `io.BufferedReader` requires a readable stream."""
        return True

    def is_2bit(self) -> bool:
        """Whether this is a UCSC .2bit file, judged by its first bytes; call this before reading.

        Raises:
            UserError: the file cannot be read.
        """
        with read_errors(Path(self.location)):
            while len(self._head) < 4 and (read := self._file.readinto(buffer := bytearray(4 - len(self._head)))):
                self._head += buffer[:read]
        return is_2bit(self._head)

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer and return the number of bytes read, 0 at the end of the file."""
        first = min(len(buffer), len(self._head))
        buffer[:first], self._head = self._head[:first], self._head[first:]
        read = first + self._file.readinto(memoryview(buffer)[first:])
        self.count += read
        self.digest.update(memoryview(buffer)[:read])
        return read

    def close(self) -> None:
        """Close the file."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


def text_pieces(raw: RawFile, piece: int = PIECE) -> Iterator[bytes]:
    """Yield the text of a file in pieces: decompressed, without a byte order mark, with LF line ends.

    Args:
        raw: file to read; its first bytes determine the compression format.
        piece: bytes to decompress at a time.

    Raises:
        UserError: the file is truncated or damaged, is not text, or cannot be downloaded.
    """
    if raw.is_2bit():
        raise UserError(f"{raw.location}: a .2bit file, but text is expected; choose another file")
    with read_errors(Path(raw.location)):
        yield from as_text(decompressed(io.BufferedReader(raw, PIECE), raw.location, piece), raw.location)


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, plain or compressed, without line ends.

    Raises:
        UserError: the file is missing, damaged or not UTF-8, or has a very long line.
    """
    number, rest = 0, b""
    with RawFile(str(path)) as raw:
        for data in chain(text_pieces(raw), (b"\n",)):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number += 1
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    raise UserError(f"{path}: line {number}: not UTF-8 text; save the file as UTF-8") from None
            if len(rest) > MAX_LINE_BYTES:
                raise UserError(f"{path}: line {number + 1}: longer than {MAX_LINE_BYTES:,} bytes; choose another file")


def read_ahead(pieces: Iterator[bytes], limit: int = 8) -> Generator[bytes, None, None]:
    """Yield the pieces while a background thread reads up to ``limit`` pieces ahead."""
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(limit)
    stopped = threading.Event()

    def put(item: bytes | BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def read() -> None:
        try:
            for item in pieces:
                put(item)
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # raised in the consuming thread
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


@contextlib.contextmanager
def local_copy(source: SequenceSource) -> Iterator[Path]:
    """Yield a local path of a source; a remote source is first downloaded to a temporary file.

    Raises:
        UserError: the source cannot be read, or the disk is full.
    """
    if not source.remote:
        yield Path(source.location)
        return
    with tempfile.NamedTemporaryFile() as copy:
        with space_errors(Path(copy.name)), RawFile(source.location) as raw:
            while data := raw.read(PIECE):
                copy.write(data)
            copy.flush()
        yield Path(copy.name)


class _RemoteFile:
    """Sequential reader of a URL; after a lost connection, reading resumes at the same offset."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._size = _remote_info(url).get("size")
        self._at = 0
        self._file: BinaryIO | None = None
        self._options: dict[str, Any] = {}

    def readinto(self, buffer: Any) -> int:
        data = call_remote(REMOTE_RETRY, self._url, lambda _: self._read(len(buffer)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, size: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._open()
            data = self._file.read(size)
            if not data and self._size is not None and self._at < self._size:
                raise ShortReadError(data, self._size - self._at)
        except Exception as error:
            self._file = None
            if isinstance(error, ValueError) and "range" in str(error) and not self._options:
                # This server does not support range requests.
                self._options = _STREAMED
                return self._read(size)
            raise
        return data

    def _open(self) -> BinaryIO:
        system, path = _filesystem(self._url)
        file = system.open(path, "rb", **self._options)
        if not self._options:
            file.seek(self._at)
            return file
        to_skip = self._at
        while to_skip and (data := file.read(min(to_skip, PIECE))):
            to_skip -= len(data)
        return file


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # aiohttp's default total timeout of 5 minutes is too short for a genome. Without `identity`, some servers
        # decompress .gz files before they send them.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REMOTE_RETRY.timeout, sock_read=REMOTE_RETRY.timeout)
        options = {"client_kwargs": {"timeout": timeout}, "headers": http_headers(url)}
    return fsspec.core.url_to_fs(url, **options)


def _remote_info(url: str) -> dict[str, Any]:
    def info(_: float) -> dict[str, Any]:
        system, path = _filesystem(url)
        return system.info(path)

    return call_remote(REMOTE_RETRY, url, info)
