"""Remote copy of a run's checkpoints, at any URL that fsspec can write to (s3://, gs://, file://).

Object stores cannot rename, so a remote checkpoint counts as complete if its manifest is present and valid; the
manifest is uploaded last and deleted first. An incomplete checkpoint has a marker file next to it. The run ID in the
name of this file shows which run is uploading or deleting the checkpoint:

    <checkpoint.remote>/step-00000100/
    <checkpoint.remote>/.step-00000200.<run ID>.partial
    <checkpoint.remote>/step-00000200/                     incomplete

Only checkpoints whose manifest or marker has the run ID of this run are ever deleted or overwritten.
"""

import errno
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from ldarnet.errors import TransientError, UserError
from ldarnet.io.files import PARTIAL_SUFFIX, sync_path
from ldarnet.io.manifest import MAX_MANIFEST_BYTES, Manifest, verify_files
from ldarnet.io.records import parse_record
from ldarnet.io.retry import is_final
from ldarnet.io.run_files import CHECKPOINT_PREFIX, CONFIG, MANIFEST, STATE
from ldarnet.runtime.checkpoint import CheckpointStore, read_state

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

    def complete(self, store: CheckpointStore, last: int | None = None) -> dict[str, Manifest]:
        """List the complete checkpoints in the remote folder, oldest first.

        Args:
            store: local checkpoints.
            last: last step of the run, None if unknown; damaged manifests of later steps are ignored.

        Returns:
            Checkpoint name -> manifest.

        Raises:
            UserError: the remote cannot be read, or a checkpoint that is newer than all complete checkpoints has a
                damaged manifest.
        """
        with self._errors("cannot be read"):
            folders, marked = self._listing()
            manifests = self._manifests(folders)
        parsed = {name: store.parse(content, name) for name, content in manifests.items()}
        found = {name: manifest for name, manifest in parsed.items() if manifest is not None}
        steps = [manifest.step or 0 for manifest in found.values()] + list(map(store.step, store.complete()))
        for name in sorted(manifests.keys() - found.keys() - marked):
            if store.is_due(name, max(steps, default=-1), last):
                self._parse(manifests[name], name, store)
        return dict(sorted(found.items(), key=lambda item: item[1].step or 0))

    def fetch(self, store: CheckpointStore, check: Callable[[Path], None], last: int | None) -> None:
        """Download the newest remote checkpoint, and the checkpoint that its training state records as the best.

        If the remote has checkpoints of this run, the checkpoints of other runs are ignored. If a local checkpoint is
        at least as new as the newest remote checkpoint, nothing is downloaded. Otherwise, `store.run_id` is set to the
        run ID of the newest remote checkpoint, if this checkpoint has one.

        Args:
            store: local checkpoint store to download into.
            check: called with a folder that holds the state and configuration of the newest remote checkpoint; must
                raise UserError if the checkpoint belongs to another run.
            last: last step of the run; None if unknown.

        Raises:
            TransientError: the remote is temporarily unreadable.
            UserError: the remote cannot be read, a checkpoint is damaged, or `check` raises.
        """
        remote, latest = self.complete(store, last), store.latest()
        if store.run_id in {manifest.run_id for manifest in remote.values()}:
            ours = (None, store.run_id)
            remote = {name: manifest for name, manifest in remote.items() if manifest.run_id in ours}
        if not remote:
            return
        newest = next(reversed(remote))
        with TemporaryDirectory() as folder:
            with self._errors("cannot be read"):
                for file in (STATE, CONFIG):
                    self._files.get_file(f"{self._root}/{newest}/{file}", f"{folder}/{file}")
            check(Path(folder))
            best = read_state(Path(folder)).best_step
        if latest is not None and (remote[newest].step or 0) <= store.step(latest):
            return
        missing = {newest, *({store.path(best).name} & remote.keys() if best is not None else ())}
        # Download the newest checkpoint last, so that the next launch repeats an interrupted download.
        for name in sorted(missing - {path.name for path in store.complete()}):
            self._download(name, store)
        store.run_id = remote[newest].run_id or store.run_id

    def update(self, store: CheckpointStore) -> list[str]:
        """Upload checkpoints that are missing remotely; delete remote checkpoints that the store no longer has.

        Returns:
            A message about each remote folder that is kept because it lacks the run ID of this run. Messages that an
            earlier call returned are omitted.

        Raises:
            UserError: the remote cannot be written to, or a checkpoint cannot be uploaded because a folder that is not
                a checkpoint of this run has the same name.
        """
        with self._errors("cannot be written to"):
            remote, marked = self._listing(str(store.run_id))
            manifests = self._manifests(remote)
            local = {path.name: path for path in store.complete()}
            ours = marked | {name for name, content in manifests.items() if _has_run_id(content, name, store)}
            missing = [path for name, path in local.items() if manifests.get(name) != (path / MANIFEST).read_bytes()]
            occupied = [path.name for path in missing if path.name in remote.keys() - ours]
            for path in missing:
                if path.name not in occupied:
                    self._upload(path, store, replacing=path.name in manifests)
            others = remote.keys() - local.keys()
            for name in sorted(others & ours):
                self._remove(name, remote[name], store)
            for name in marked:
                self._unmark(name, store)
        if occupied:
            raise UserError(
                f"{self.url}/{occupied[0]}: exists, but is not a checkpoint of this run; move it away, or use another "
                f"{KEY}"
            )
        return store.report_kept(f"{self.url}/{name}" for name in sorted(others - ours))

    def _listing(self, run_id: str = "[^.]+") -> tuple[dict[str, set[str]], set[str]]:
        """List all checkpoints in the remote folder, and those that are marked as incomplete.

        Args:
            run_id: regular expression for the run ID in the names of markers; by default, any run ID.

        Returns:
            Two values. First, checkpoint name -> file names, for complete and incomplete checkpoints. Second, the names
            of the checkpoints that have a marker with a matching run ID.
        """
        self._files.invalidate_cache()
        found: defaultdict[str, set[str]] = defaultdict(set)
        marked = set()
        try:
            paths = self._files.find(self._root, withdirs=True)
        except FileNotFoundError:
            return {}, set()
        for path in paths:
            name, _, file = path.removeprefix(self._root).lstrip("/").partition("/")
            if name.startswith(CHECKPOINT_PREFIX):
                found[name] |= {file} - {""}
            elif match := re.fullmatch(rf"\.({CHECKPOINT_PREFIX}\d+)\.{run_id}{re.escape(PARTIAL_SUFFIX)}", name):
                marked.add(match[1])
        return dict(found), marked

    def _manifests(self, folders: dict[str, set[str]]) -> dict[str, bytes]:
        """Content of the manifest of each folder that has one, whether or not it is valid."""
        found = {}
        for name in folders:
            if MANIFEST in folders[name]:
                with suppress(FileNotFoundError):
                    found[name] = self._read_manifest(name)
        return found

    def _read_manifest(self, name: str) -> bytes:
        """Read a manifest; return b"" if the file is larger than MAX_MANIFEST_BYTES."""
        path = f"{self._root}/{name}/{MANIFEST}"
        return b"" if (self._files.size(path) or 0) > MAX_MANIFEST_BYTES else self._files.cat_file(path)

    def _marker(self, name: str, store: CheckpointStore) -> str:
        return f"{self._root}/.{name}.{store.run_id}{PARTIAL_SUFFIX}"

    def _unmark(self, name: str, store: CheckpointStore) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._marker(name, store))

    def _upload(self, checkpoint: Path, store: CheckpointStore, *, replacing: bool) -> None:
        target = f"{self._root}/{checkpoint.name}"
        self._files.pipe_file(self._marker(checkpoint.name, store), b"")
        if replacing:
            self._files.rm_file(f"{target}/{MANIFEST}")
        files = sorted(checkpoint.iterdir(), key=lambda path: (path.name == MANIFEST, path.name))
        for file in files:
            self._files.put_file(str(file), f"{target}/{file.name}")
        self._unmark(checkpoint.name, store)

    def _remove(self, name: str, files: set[str], store: CheckpointStore) -> None:
        self._files.pipe_file(self._marker(name, store), b"")
        if MANIFEST in files:
            self._files.rm_file(f"{self._root}/{name}/{MANIFEST}")
        with suppress(FileNotFoundError):  # on object stores, a folder disappears with its last file
            self._files.rm(f"{self._root}/{name}", recursive=True)
        self._unmark(name, store)

    def _download(self, name: str, store: CheckpointStore) -> None:
        with store.staged(store.step(Path(name))) as folder:
            with self._errors("cannot be read"):
                content = self._read_manifest(name)
                manifest = self._parse(content, name, store)
                for file in manifest.files:
                    self._files.get_file(f"{self._root}/{name}/{file}", str(folder / file))
                    sync_path(folder / file)
            (folder / MANIFEST).write_bytes(content)
            sync_path(folder / MANIFEST)
            verify_files(folder, manifest, hint=self._hint(name), where=f"{self.url}/{name}")

    def _parse(self, content: bytes, name: str, store: CheckpointStore) -> Manifest:
        """Parse the manifest of a complete checkpoint.

        Raises:
            UserError: the manifest is damaged or lacks a required file, or its step does not match `name`.
        """
        manifest = parse_record(content, Manifest, where=f"{self.url}/{name}/{MANIFEST}", hint=self._hint(name))
        store.check(manifest, name, where=f"{self.url}/{name}", hint=self._hint(name))
        return manifest

    def _hint(self, name: str) -> str:
        return f"restore it, or delete {self.url}/{name} to resume from the previous checkpoint"

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


def _has_run_id(content: bytes, name: str, store: CheckpointStore) -> bool:
    """Whether `content` is the manifest of a complete checkpoint with the run ID of `store`."""
    manifest = store.parse(content, name)
    return manifest is not None and store.run_id is not None and manifest.run_id == store.run_id
