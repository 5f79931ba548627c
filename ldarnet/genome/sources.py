"""Where genomes come from: files and URLs, plain or packed, each with the species it belongs to."""

import bz2
import contextlib
import hashlib
import io
import lzma
import queue
import re
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from xopen import xopen

from ldarnet.errors import UserError
from ldarnet.io.files import file_size, read_errors, space_errors
from ldarnet.io.retry import Retry, ShortReadError, call_remote

PIECE = 2**20
REMOTE_RETRY = Retry()

_SPECIES = re.compile(r"([^/=\s]+)=(.+)")
_STREAMED = {"block_size": 0}
_STREAMS = {b"BZh": bz2.BZ2Decompressor, b"\xfd7zXZ\0": lzma.LZMADecompressor}
_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))
"""Frames of zstandard without content, which some of its files begin with (RFC 8878, section 3.1.2)."""
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", *_SKIPPABLE, *_STREAMS)
_VERSIONS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "mtime")


@dataclass(frozen=True, slots=True)
class Source:
    """One input file.

    Attributes:
        location: path or URL.
        species: "" where none was named.
    """

    location: str
    species: str = ""

    @property
    def remote(self) -> bool:
        """Whether it is read through fsspec."""
        return "://" in self.location

    @property
    def name(self) -> str:
        """Its last word: what a set keeps of a path."""
        return self.location.rstrip("/").rsplit("/", 1)[-1]

    def absolute(self) -> "Source":
        """The same file for a process in another working folder."""
        return self if self.remote else replace(self, location=str(Path(self.location).absolute()))

    @property
    def is_2bit(self) -> bool:
        """Whether it is in UCSC's packed form, which is told by its name alone."""
        return self.name.endswith(".2bit")

    def identity(self) -> dict[str, Any]:
        """What tells, without reading it, whether this is still the same file: location, size and a version.

        Raises:
            UserError: there is no such file.
        """
        if not self.remote:
            size = file_size(Path(self.location))
            version = str(Path(self.location).stat().st_mtime_ns)
        else:
            info = _remote_info(self.location)
            size = info.get("size")
            version = next((str(info[key]) for key in _VERSIONS if info.get(key)), "")
        return {"location": self.location, "size": size, "version": version}


def parse_source(argument: str) -> Source:
    """Read ``PATH`` or ``SPECIES=PATH``; a path that holds ``=`` is written with its folder, as in ``./a=b.fa``."""
    match = _SPECIES.fullmatch(argument)
    return Source(match[2], match[1]) if match else Source(argument)


def read_genomes(path: Path) -> list[Source]:
    """Read lines ``species<TAB>path or URL``; relative paths begin at the folder of the file.

    Raises:
        UserError: the file is missing or empty, or a line has another form.
    """
    file_size(path)
    with read_errors(path):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    sources = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        species, _, location = (word.strip() for word in line.partition("\t"))
        if not location or not _SPECIES.fullmatch(f"{species}=x"):
            raise UserError(
                f"{path}: line {number}: not a genome; write its species (without spaces, '/' and '='), a tab "
                "and its path"
            )
        sources.append(Source(location if "://" in location else str(path.parent / location), species))
    if not sources:
        raise UserError(f"{path}: empty; write one line for each genome: species, a tab and its path or URL")
    return sources


def is_packed(path: Path) -> bool:
    """Whether a file begins as gzip, bzip2, xz or zstandard do."""
    file_size(path)
    with read_errors(path), path.open("rb") as file:
        return file.read(6).startswith(_PACKED)


class Raw(io.RawIOBase):
    """The bytes of a file or URL as they are stored, hashed on their way.

    Attributes:
        count: bytes read.
        digest: their SHA-256 so far.
    """

    def __init__(self, location: str) -> None:
        """Open it.

        Raises:
            UserError: it is missing, or may not be read.
        """
        super().__init__()
        self.location = location
        self.count = 0
        self.digest = hashlib.sha256()
        if "://" in location:
            self._file: Any = _Remote(location)
        else:
            file_size(Path(location))
            with read_errors(Path(location)):
                self._file = Path(location).open("rb", buffering=0)  # noqa: SIM115

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as one read does; 0 at the end."""
        read = self._file.readinto(buffer)
        self.count += read
        self.digest.update(memoryview(buffer)[:read])
        return read

    def close(self) -> None:
        """Close the file."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


def text_pieces(raw: Raw, piece: int = PIECE) -> Iterator[bytes]:
    """The decompressed bytes of a file, in pieces, up to its very end.

    Raises:
        UserError: the file is truncated or damaged, or a server fails.
    """
    where = raw.location
    try:
        buffered = io.BufferedReader(raw, PIECE)
        head = buffered.peek(8)
        new = next((new for magic, new in _STREAMS.items() if head.startswith(magic)), None)
        if new is not None:
            yield from _unpacked(buffered, new, piece)
        else:
            form = "zst" if head.startswith(_SKIPPABLE) else None
            with xopen(buffered, "rb", threads=0, format=form) as text:  # type: ignore[arg-type]
                while data := text.read(piece):
                    yield data
        while not raw.closed and buffered.read(PIECE):
            pass
    except UserError:
        raise
    except EOFError:
        raise UserError(f"{where}: the compressed data end too early; the file is truncated, fetch it again") from None
    except Exception as error:
        # Each decompressor has an exception class of its own.
        raise UserError(f"{where}: cannot be read ({error}); it is damaged or misnamed, fetch it again") from None


def _unpacked(file: BinaryIO, new: Callable[[], Any], piece: int) -> Iterator[bytes]:
    """What one compressed stream after the other holds.

    Python's own files of .bz2 and .xz take what follows a stream and begins no other one for rubbish, and drop it.

    Raises:
        EOFError: the last stream is not whole.
        Exception: what follows a stream is none, in a class of the decompressor.
    """
    stream, data = new(), b""
    while True:
        if stream.eof:
            rest = stream.unused_data
            while not (rest := rest.lstrip(b"\0")):  # padding
                if not (rest := file.read(PIECE)):
                    return
            stream, data = new(), rest
        elif stream.needs_input and not (data := file.read(PIECE)):
            raise EOFError
        if text := stream.decompress(data, piece):
            yield text
        data = b""


def read_ahead(pieces: Iterator[bytes], most: int = 8) -> Generator[bytes, None, None]:
    """The same pieces, read in a thread of their own while those before are worked on."""
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(most)
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
        except BaseException as error:  # passed on to the thread that works
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
def local_copy(source: Source) -> Iterator[Path]:
    """The path of a source; a remote one is copied to a temporary file first.

    Raises:
        UserError: it cannot be read, or there is no room for the copy.
    """
    if not source.remote:
        yield Path(source.location)
        return
    with tempfile.NamedTemporaryFile(suffix=source.name) as copy:
        with space_errors(Path(copy.name)), Raw(source.location) as raw:
            while data := raw.read(PIECE):
                copy.write(data)
            copy.flush()
        yield Path(copy.name)


class _Remote:
    """A URL read front to back; a connection that breaks is taken up again where it ended."""

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

    def _read(self, most: int) -> bytes:
        try:
            if self._file is None:
                self._file = self._open()
            data = self._file.read(most)
            if not data and self._size is not None and self._at < self._size:
                raise ShortReadError(data, self._size - self._at)
        except Exception as error:
            self._file = None
            if isinstance(error, ValueError) and "range" in str(error) and not self._options:
                # This server gives whole files only.
                self._options = _STREAMED
                return self._read(most)
            raise
        return data

    def _open(self) -> BinaryIO:
        system, path = _filesystem(self._url)
        file = system.open(path, "rb", **self._options)
        if not self._options:
            file.seek(self._at)
            return file
        left = self._at
        while left and (data := file.read(min(left, PIECE))):
            left -= len(data)
        return file


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    options: dict[str, Any] = {}
    if url.startswith(("http://", "https://")):
        import aiohttp

        # By default a whole file would have to come within five minutes, and some servers unpack .gz on the way.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=REMOTE_RETRY.timeout, sock_read=REMOTE_RETRY.timeout)
        options = {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}
    return fsspec.core.url_to_fs(url, **options)


def _remote_info(url: str) -> dict[str, Any]:
    def info(_: float) -> dict[str, Any]:
        system, path = _filesystem(url)
        return system.info(path)

    return call_remote(REMOTE_RETRY, url, info)
