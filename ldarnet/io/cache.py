"""Content-addressed caches for data read from remote storage: one on disk, one in memory.

All processes of a node share the disk cache. Each entry is a file ``frames/ab/abcd...``, whose name is the SHA-256 of
the data. The file ``frames/bytes`` holds the total size of all entries. A process locks this file to update the total.
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
_EVICT_TO = 0.9  # evict down to this fraction of the limit, so that evictions are rare
_ABANDONED_S = 3600  # age at which a partial file is assumed to belong to a dead process


class MemoryCache:
    """Bounded in-memory cache with first-in, first-out eviction; thread-safe."""

    def __init__(self, limit: int) -> None:
        """Create an empty cache for at most ``limit`` bytes."""
        self._limit = limit
        self._bytes = 0
        self._entries: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, digest: str) -> bytes | None:
        """The data with this SHA-256, or None."""
        return self._entries.get(digest)

    def put(self, digest: str, data: bytes) -> None:
        """Store data under its SHA-256."""
        with self._lock:
            self._bytes += len(data) - len(self._entries.pop(digest, b""))
            self._entries[digest] = data
            while self._bytes > self._limit:
                self._bytes -= len(self._entries.pop(next(iter(self._entries))))

    def __contains__(self, digest: str) -> bool:
        return digest in self._entries


class DiskCache:
    """Bounded LRU cache in a folder shared by all processes of a node.

    Before a process writes an entry, it locks a shared total and adds the size of the entry to it. If the total exceeds
    the limit, the process deletes the least recently used entries and recomputes the total. The folder may exceed the
    limit by one entry per writing thread. On a file system without locks, it may exceed the limit by more until the
    next eviction.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Cache at most ``limit`` bytes in ``folder``. The folder is created when the first entry is written."""
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
        """Store data under its SHA-256; return whether the cache now contains the data.

        If the folder is not writable, log one warning and write nothing from then on.
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
            recorded = os.pread(lock.descriptor, 32, 0)
            total = int(recorded) + size if recorded.strip().isdigit() else self._limit + 1
            if total > self._limit:
                total = self._evict(int(_EVICT_TO * self._limit) - size) + size
            os.pwrite(lock.descriptor, f"{total:<31}\n".encode(), 0)

    def _evict(self, target: int) -> int:
        """Delete least recently used entries until at most ``target`` bytes remain; return the remaining total."""
        entries = []
        for folder in self.folder.glob("??"):
            with os.scandir(folder) as files:
                for file in files:
                    with suppress(OSError):
                        status = file.stat()
                        entries.append((status.st_mtime_ns, status.st_size, Path(file.path)))
        total, abandoned = sum(size for _, size, _ in entries), (time.time() - _ABANDONED_S) * 1e9
        for used, size, path in sorted(entries):
            partial = path.name.endswith(PARTIAL_SUFFIX)
            if used < abandoned if partial else total > target:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                    total -= size
        return total


def default_cache_folder() -> Path:
    """Default cache folder: ``$XDG_CACHE_HOME/ldarnet``, or ``~/.cache/ldarnet`` if the variable is not set.

    If the home directory cannot be determined, use a per-user folder in the system's temporary directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldarnet"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ldarnet-{os.getuid()}"
