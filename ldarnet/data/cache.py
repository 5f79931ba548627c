"""Frames of remote blocks, kept on disk for all processes of a node, or in memory where there is no disk for them.

A cache folder holds ``frames/ab/abcd...``, named by SHA-256, and ``frames/bytes``, in which the processes keep count of
what they wrote, under a lock.
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
_KEEP = 0.9  # of the bound, when room is made: it is made rarely
_ABANDONED_S = 3600  # a partial file this old was left by a process that died


class MemoryCache:
    """Frames in the memory of this process, the last ones that were put."""

    def __init__(self, limit: int) -> None:
        """Keep at most ``limit`` bytes."""
        self._limit = limit
        self._bytes = 0
        self._frames: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def get(self, digest: str) -> bytes | None:
        """The frame or None."""
        return self._frames.get(digest)

    def put(self, digest: str, frame: bytes) -> None:
        """Keep a frame."""
        with self._lock:
            self._bytes += len(frame) - len(self._frames.pop(digest, b""))
            self._frames[digest] = frame
            while self._bytes > self._limit:
                self._bytes -= len(self._frames.pop(next(iter(self._frames))))

    def __contains__(self, digest: str) -> bool:
        return digest in self._frames


class DiskCache:
    """Frames in a folder that all processes of a node share.

    The bound holds but for one frame for each thread that writes at that moment: room is asked for before a frame is
    written, from a count that all processes keep under a lock. When there is none, the frames used longest ago make
    room, and the count is set right. On a file system without locks it may be too low until then.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Keep at most about ``limit`` bytes in ``folder``, which need not exist."""
        self.folder = folder / "frames"
        self._limit = limit
        self._writes = True

    def get(self, digest: str) -> bytes | None:
        """The frame, compared with its hash; one that was damaged is removed."""
        path = self._path(digest)
        try:
            frame = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(frame).hexdigest() != digest:
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return frame

    def put(self, digest: str, frame: bytes) -> bool:
        """Keep a frame. When the folder cannot be written, say so once and go on without."""
        if not self._writes or len(frame) > self._limit:
            return False
        path = self._path(digest)
        try:
            if path.exists():
                return True
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make_room(len(frame))
            with atomic_path(path, durable=False) as partial:
                partial.write_bytes(frame)
        except (OSError, NotWritableError) as error:
            told, self._writes = not self._writes, False
            if not told:
                _LOG.warning("%s: blocks are not kept on disk from here on: %s", self.folder, error)
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
                held = self._evict(int(_KEEP * self._limit) - size) + size
            os.pwrite(lock.descriptor, f"{held:<31}\n".encode(), 0)

    def _evict(self, target: int) -> int:
        """Remove the frames used longest ago until at most ``target`` bytes are left; return how many are."""
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
    """``$XDG_CACHE_HOME/ldarnet``, by default ``~/.cache/ldarnet``; for users without a home, a temporary folder."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldarnet"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"ldarnet-{os.getuid()}"
