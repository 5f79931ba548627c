"""Remote copy of a run's checkpoints, at any URL that fsspec can write to (s3://, gs://, file://).

Object stores cannot rename, so a remote checkpoint counts as complete if its manifest is present and valid; the
manifest is uploaded last and deleted first.
"""

import errno
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ldarnet.errors import TransientError, UserError
from ldarnet.io.files import sync_path
from ldarnet.io.retry import is_final
from ldarnet.io.run_files import CHECKPOINT_PREFIX, CONFIG, MANIFEST, STATE
from ldarnet.runtime.checkpoint import CheckpointStore, read_state, verify

KEY = "checkpoint.remote"


class Mirror:
    """Remote copy of the complete checkpoints in a local store.

    Args:
        url: URL of the remote folder, created if missing.

    Raises:
        UserError: the protocol of the URL is unknown, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        with self._errors("cannot be used"):
            # Only fsspec's local file system needs this option to create folders.
            options = {"auto_mkdir": True} if url.startswith(("file://", "local://")) or "://" not in url else {}
            self._files, self._root = url_to_fs(self.url, **options)

    def complete(self) -> list[str]:
        """Names of the complete remote checkpoints, oldest first."""
        with self._errors("cannot be read"):
            return sorted(name for name in self._listing() if self._manifest(name))

    def fetch(self, store: CheckpointStore, check: Callable[[Path], None]) -> None:
        """Download the newest checkpoint, and the best checkpoint recorded in its state.

        Downloads nothing if the newest local checkpoint is at least as new.

        Args:
            store: local checkpoint store to download into.
            check: called with a folder that holds the state and configuration of the newest remote checkpoint; must
                raise UserError if the checkpoint belongs to another run.

        Raises:
            TransientError: the remote is temporarily unreadable.
            UserError: the remote cannot be read, a checkpoint is damaged, or `check` raises.
        """
        remote, latest = self.complete(), store.latest()
        if not remote:
            return
        with TemporaryDirectory() as folder:
            with self._errors("cannot be read"):
                for file in (STATE, CONFIG):
                    self._files.get_file(f"{self._root}/{remote[-1]}/{file}", f"{folder}/{file}")
            check(Path(folder))
            best = read_state(Path(folder)).best_step
        if latest is not None and remote[-1] <= latest.name:
            return
        missing = {remote[-1], *({store.path(best).name} & set(remote) if best else ())}
        # Download the newest checkpoint last, so that the next launch repeats an interrupted download.
        for name in sorted(missing - {path.name for path in store.complete()}):
            self._download(name, store)

    def update(self, store: CheckpointStore) -> None:
        """Upload checkpoints that are missing remotely; delete remote checkpoints that the store no longer has.

        Raises:
            UserError: the remote cannot be written to.
        """
        with self._errors("cannot be written to"):
            remote = self._listing()
            local = {path.name: path for path in store.complete()}
            for name, path in local.items():
                if MANIFEST not in remote.get(name, {}) or self._manifest(name) != (path / MANIFEST).read_bytes():
                    self._upload(path, replacing=MANIFEST in remote.get(name, {}))
            for name in sorted(remote.keys() - local.keys()):
                self._remove(name, remote[name])

    def _listing(self) -> dict[str, set[str]]:
        """Map each remote checkpoint, complete or not, to its file names."""
        self._files.invalidate_cache()
        found: defaultdict[str, set[str]] = defaultdict(set)
        try:
            paths = self._files.find(self._root, withdirs=True)
        except FileNotFoundError:
            return {}
        for path in paths:
            name, _, file = path.removeprefix(self._root).lstrip("/").partition("/")
            if name.startswith(CHECKPOINT_PREFIX):
                found[name] |= {file} - {""}
        return dict(found)

    def _manifest(self, name: str) -> bytes | None:
        """Read the manifest of a checkpoint; None if the manifest is missing or truncated."""
        try:
            content = self._files.cat_file(f"{self._root}/{name}/{MANIFEST}")
            json.loads(content)
        except (FileNotFoundError, ValueError):
            return None
        return content

    def _upload(self, checkpoint: Path, *, replacing: bool) -> None:
        target = f"{self._root}/{checkpoint.name}"
        if replacing:
            self._files.rm_file(f"{target}/{MANIFEST}")
        files = sorted(checkpoint.iterdir(), key=lambda path: (path.name == MANIFEST, path.name))
        for file in files:
            self._files.put_file(str(file), f"{target}/{file.name}")

    def _remove(self, name: str, files: set[str]) -> None:
        if MANIFEST in files:
            self._files.rm_file(f"{self._root}/{name}/{MANIFEST}")
        with suppress(FileNotFoundError):  # on object stores, a folder disappears with its last file
            self._files.rm(f"{self._root}/{name}", recursive=True)

    def _download(self, name: str, store: CheckpointStore) -> None:
        with store.staged(int(name.removeprefix(CHECKPOINT_PREFIX))) as folder:
            with self._errors("cannot be read"):
                manifest = self._files.cat_file(f"{self._root}/{name}/{MANIFEST}")
                for file in json.loads(manifest)["files"]:
                    self._files.get_file(f"{self._root}/{name}/{file}", str(folder / file))
                    sync_path(folder / file)
            (folder / MANIFEST).write_bytes(manifest)
            sync_path(folder / MANIFEST)
            verify(folder, location=f"{self.url}/{name}")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Convert errors of any fsspec file system to UserError or TransientError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            reason = str(error).partition("\n")[0]
            kind = UserError if is_final(error) else TransientError
            raise kind(
                f"{KEY}={self.url} {what} ({type(error).__name__}: {reason}); check the address, your credentials and "
                f"the network, or set {KEY}=null"
            ) from None
