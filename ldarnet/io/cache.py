"""Content-addressed caches for bytes of remote storage: on disk, shared by all processes of a node, or in memory.

A cache folder holds ``frames/ab/abcd...``, named by SHA-256, and ``frames/bytes``, the total size, which the processes
update under a lock.
"""

import hashlib
import logging
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from ldarnet.io.files import PARTIAL_SUFFIX, NotWritableError, atomic_path
from ldarnet.io.lock import acquire

_LOG = logging.getLogger(__name__)
_EVICT_TO = 0.9  # an eviction shrinks the cache to this fraction of its limit, so that evictions are rare
_ABANDONED_S = 3600  # a partial file this old belongs to a process that died


class MemoryCache:
    """A bounded first-in, first-out cache in the memory of this process; safe for threads."""

    def __init__(self, limit: int) -> None:
        """Keep at most ``limit`` bytes."""
        self._limit = limit
        self._bytes = 0
        self._entries: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, digest: str) -> bytes | None:
        """The data with this SHA-256, or None."""
        return self._entries.get(digest)

    def put(self, digest: str, data: bytes) -> None:
        """Add data under its SHA-256."""
        with self._lock:
            self._bytes += len(data) - len(self._entries.pop(digest, b""))
            self._entries[digest] = data
            while self._bytes > self._limit:
                self._bytes -= len(self._entries.pop(next(iter(self._entries))))

    def __contains__(self, digest: str) -> bool:
        return digest in self._entries


class DiskCache:
    """A bounded least-recently-used cache in a folder that all processes of a node share.

    Space is reserved before data is written, from a total that all processes update under a lock. When the limit is
    reached, the least recently used entries are deleted and the total is recomputed. The folder may exceed the limit by
    one entry per thread that is writing; on a file system without locks, by more until the next eviction.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Use at most ``limit`` bytes in ``folder``, which is created when first written."""
        self.folder = folder / "frames"
        self._limit = limit
        self._writable = True

    def get(self, digest: str) -> bytes | None:
        """The data with this SHA-256, or None; a damaged entry is deleted."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return data

    def put(self, digest: str, data: bytes) -> bool:
        """Add data under its SHA-256; return whether it is cached.

        If the folder cannot be written, log a warning once and stop writing.
        """
        if not self._writable or len(data) > self._limit:
            return False
        path = self._path(digest)
        try:
            if path.exists():
                return True
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            with atomic_path(path, durable=False) as partial:
                partial.write_bytes(data)
        except (OSError, NotWritableError) as error:
            warned, self._writable = not self._writable, False
            if not warned:
                _LOG.warning("disk cache disabled: %s: %s", self.folder, error)
            return False
        return True

    def __contains__(self, digest: str) -> bool:
        return self._path(digest).exists()

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def _make_room(self, size: int) -> None:
        with acquire(self.folder / "bytes") as lock:
            count = os.pread(lock.descriptor, 32, 0)
            held = int(count) + size if count.strip().isdigit() else self._limit + 1
            if held > self._limit:
                held = self._evict(int(_EVICT_TO * self._limit) - size) + size
            os.pwrite(lock.descriptor, f"{held:<31}\n".encode(), 0)

    def _evict(self, target: int) -> int:
        """Delete least recently used entries until at most ``target`` bytes remain; return the remaining bytes."""
        entries = []
        for folder in self.folder.glob("??"):
            with os.scandir(folder) as files:
                for file in files:
                    with suppress(OSError):
                        status = file.stat()
                        entries.append((status.st_mtime_ns, status.st_size, Path(file.path)))
        held, abandoned = sum(size for _, size, _ in entries), (time.time() - _ABANDONED_S) * 1e9
        for used, size, path in sorted(entries):
            partial = path.name.endswith(PARTIAL_SUFFIX)
            if used < abandoned if partial else held > target:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    held -= size
        return held


def default_cache_folder() -> Path:
    """``$XDG_CACHE_HOME/ldarnet``, by default ``~/.cache/ldarnet``; a temporary folder for users without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldarnet"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ldarnet-{os.getuid()}"
