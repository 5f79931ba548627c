"""Read access to files in a local folder or at any URL that fsspec supports."""

import errno
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ldarnet.errors import UserError, refuse_credentials
from ldarnet.io.files import read_errors
from ldarnet.io.retry import Result, Retry, ShortReadError, call_remote, status_of

MAX_OPEN = 64
"""Maximum number of files that a `LocalFiles` keeps open."""


class DamagedError(UserError):
    """A file of a shard set is missing or does not match the index of the set.

    Runs can be configured to skip the affected windows. Network failures and missing permissions raise other errors.
    """


class MissingError(DamagedError):
    """A file of a shard set does not exist."""


class Storage(Protocol):
    """Read access to the files in a folder or at a URL. Instances can be pickled, and can be used after a fork.

    Attributes:
        place: path of the folder, or URL.
        remote: whether the files are remote, so that reads should be cached.
    """

    place: str
    remote: bool

    def locate(self, name: str) -> str:
        """Path or URL of a file."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Read bytes [``start``, ``stop``) of a file. The result is shorter only if the file ends before ``stop``.

        Raises:
            MissingError: no such file.
            UserError: the file cannot be read.
        """
        ...

    def read_all(self, name: str, max_bytes: int) -> bytes:
        """Read a whole file of bounded size.

        Raises:
            MissingError: no such file.
            UserError: the file cannot be read, or is larger than ``max_bytes``.
        """
        ...

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if unknown.

        Raises:
            MissingError: no such file.
            UserError: the file cannot be read.
        """
        ...

    def forget(self, name: str) -> None:
        """Close a file whose content was wrong, so that the next read reopens it."""
        ...


def storage_at(place: str | os.PathLike[str], retry: Retry | None = None) -> Storage:
    """Create `LocalFiles` for a path or a ``file://`` URL, and `RemoteFiles` for any other URL.

    Args:
        place: path or URL.
        retry: retry policy for remote reads; `Retry()` by default.

    Raises:
        UserError: the URL contains credentials.
    """
    place = os.fspath(place)
    refuse_credentials(place, "shard set")
    if "://" in place and not place.startswith("file://"):
        return RemoteFiles(place, retry or Retry())
    return LocalFiles(Path(place.removeprefix("file://")))


class _OpenFile:
    """A file descriptor that is closed when its last reference is dropped."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class LocalFiles:
    """Files in a folder. Recently used files stay open.

    Reads do not move the file offset, so forked processes can share open files.
    """

    remote = False

    def __init__(self, folder: Path) -> None:
        self.place = str(folder)
        self._folder = folder
        self._open: dict[str, _OpenFile] = {}

    def locate(self, name: str) -> str:
        """Path or URL of a file."""
        return str(self._folder / name)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Read bytes [``start``, ``stop``) of a file. The result is shorter only if the file ends before ``stop``."""
        path = self._folder / name
        with read_errors(path), self._missing(path):
            return self._read(name, path, start, stop)

    def read_all(self, name: str, max_bytes: int) -> bytes:
        """Read a whole file of bounded size."""
        path = self._folder / name
        with read_errors(path), self._missing(path), path.open("rb") as file:
            return _bounded(file.read(max_bytes + 1), max_bytes, str(path))

    def size(self, name: str) -> int | None:
        """Size of a file in bytes."""
        path = self._folder / name
        with read_errors(path), self._missing(path):
            return path.stat().st_size

    def forget(self, name: str) -> None:
        """Close a file whose content was wrong, so that the next read reopens it."""
        self._open.pop(name, None)

    @contextmanager
    def _missing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"{path}: missing; {repair_hint(self.place)}") from None

    def _read(self, name: str, path: Path, start: int, stop: int) -> bytes:
        # Popping and reinserting keeps the dict in order of last use; both steps are atomic, so threads need no lock.
        file = self._open.pop(name, None) or _OpenFile(path)
        data = os.pread(file.descriptor, stop - start, start)
        while len(data) < stop - start:
            more = os.pread(file.descriptor, stop - start - len(data), start + len(data))
            if not more:
                break
            data += more
        self._open[name] = file
        for other in list(self._open)[:-MAX_OPEN]:
            self._open.pop(other, None)
        return data

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


class RemoteFiles:
    """Files at a URL, read with range requests through fsspec, with retries."""

    remote = True

    def __init__(self, url: str, retry: Retry) -> None:
        self.place = url.rstrip("/")
        self._retry = retry
        self._used_in = 0
        self._system: Any = None

    def locate(self, name: str) -> str:
        """Path or URL of a file."""
        return f"{self.place}/{name}"

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Read bytes [``start``, ``stop``) of a file. The result is shorter only if the file ends before ``stop``."""
        url = self.locate(name)

        def attempt(timeout: float) -> bytes:
            try:
                data = self._range(url, start, stop, timeout)
            except Exception as error:
                if not _is_beyond_end(error):
                    raise
                data = b""
            if len(data) > stop - start:
                raise _no_ranges(url)
            if len(data) < stop - start:
                raise ShortReadError(data, stop - start)
            return data

        try:
            return self._call_remote(name, f"{url} (bytes {start}-{stop})", attempt)
        except ShortReadError as short:
            return short.data

    def read_all(self, name: str, max_bytes: int) -> bytes:
        """Read a whole file of bounded size."""
        url = self.locate(name)

        def attempt(timeout: float) -> bytes:
            if _is_http(url):
                system = self._filesystem()
                return _wait_for(system, _read_http, system, url, max_bytes + 1, timeout=timeout)
            return self._call(timeout, "cat_file", url, start=0, end=max_bytes + 1)

        return _bounded(self._call_remote(name, url, attempt), max_bytes, url)

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if unknown."""
        url = self.locate(name)

        return self._call_remote(name, url, lambda timeout: self._call(timeout, "info", url)).get("size")

    def forget(self, name: str) -> None:
        """Do nothing: remote files do not stay open."""

    def _call_remote(self, name: str, what: str, read: Callable[[float], Result]) -> Result:
        url = self.locate(name)
        missing = MissingError(f"{url}: missing; {repair_hint(self.place)}")
        return call_remote(self._retry, url, read, what=what, missing=missing)

    def _range(self, url: str, start: int, stop: int, timeout: float) -> bytes:
        if _is_http(url):
            system, limit = self._filesystem(), stop - start + 1
            return _wait_for(system, _read_http, system, url, limit, start, stop, timeout=timeout)
        return self._call(timeout, "cat_file", url, start=start, end=stop)

    def _call(self, timeout: float, method: str, url: str, **options: int) -> Any:
        system = self._filesystem()
        if system.async_impl:
            return _wait_for(system, getattr(system, f"_{method}"), url, timeout=timeout, **options)
        return getattr(system, method)(url, **options)

    def _filesystem(self) -> Any:
        """The fsspec file system; created separately in each process, because connections do not survive a fork."""
        if self._used_in != os.getpid():
            from fsspec.core import url_to_fs

            options = {"headers": http_headers(self.place)} if _is_http(self.place) else {}
            self._system, _ = url_to_fs(self.place, **options)
            self._used_in = os.getpid()
        return self._system

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_system": None, "_used_in": 0}


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


async def _read_http(system: Any, url: str, limit: int, start: int = 0, stop: int | None = None) -> bytes:
    """Read at most ``limit`` bytes of a file, or of its bytes [``start``, ``stop``).

    The methods of fsspec have no such limit: they would read an endless response of a faulty server forever.
    """
    options = {**system.kwargs}
    headers = {**options.pop("headers", {})}
    if stop is not None:
        headers["Range"] = f"bytes={start}-{stop - 1}"
    session = await system.set_session()
    async with session.get(system.encode_url(url), headers=headers, **options) as response:
        response.raise_for_status()
        if stop is not None and not _is_range(response, start, stop):
            if start:
                raise _no_ranges(url)
            limit = stop  # the response is the whole file
        data = bytearray()
        while len(data) < limit and (part := await response.content.read(limit - len(data))):
            data += part
    return bytes(data)


def _is_range(response: Any, start: int, stop: int) -> bool:
    """Whether an HTTP response holds the requested range; some servers do not set the status 206."""
    length = response.content_length
    return (
        response.status == 206
        or response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        or (length is not None and length <= stop - start)
    )


def _no_ranges(url: str) -> UserError:
    return UserError(
        f"{url}: the server does not support range requests; copy the shard set to a local folder or use a server that "
        "supports the Range header"
    )


def _bounded(data: bytes, max_bytes: int, where: str) -> bytes:
    if len(data) > max_bytes:
        raise UserError(
            f"{where}: larger than {max_bytes:,} bytes, so it is not the expected file; check the path of the shard set"
        )
    return data


def http_headers(url: str) -> dict[str, str]:
    """Headers for HTTP requests through fsspec: no compression in transit, and the host's credentials from ~/.netrc."""
    from requests.utils import get_netrc_auth

    login = get_netrc_auth(url)
    headers = {"Accept-Encoding": "identity"}
    if login is not None:
        headers["Authorization"] = f"Basic {b64encode(':'.join(login).encode()).decode()}"
    return headers


def _is_beyond_end(error: Exception) -> bool:
    """Whether an error means that the range starts beyond the end of the file (HTTP 416, or EINVAL from s3fs)."""
    return status_of(error) == 416 or (isinstance(error, OSError) and error.errno == errno.EINVAL)


def _wait_for(system: Any, function: Any, *arguments: Any, timeout: float, **options: int) -> Any:
    from fsspec.asyn import sync

    return sync(system.loop, function, *arguments, timeout=timeout, **options)


def repair_hint(place: str) -> str:
    """Hint for error messages: how to repair a damaged shard set."""
    return f"copy the shard set to {place} again, or delete it and rebuild it"
