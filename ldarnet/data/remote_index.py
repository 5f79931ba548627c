"""The index of a remote set, fetched once to this machine, where it can be mapped into memory."""

import atexit
import hashlib
import json
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ldarnet.data.index import INDEX_NAME, TABLES, Index
from ldarnet.errors import UserError
from ldarnet.io.files import NotWritableError, atomic_path
from ldarnet.io.lock import acquire
from ldarnet.io.storage import MissingError, Storage

PIECE_BYTES = 16 * 2**20
"""Tables are fetched in pieces, each of which is tried again by itself."""

_LOG = logging.getLogger(__name__)


def load_remote_index(storage: Storage, cache: Path) -> Index:
    """Load the index of a remote set from ``cache/indexes/<SHA-256 of its index.json>``, and fetch it if need be.

    Where ``cache`` cannot be written, a temporary folder takes its place for the life of this process.

    Raises:
        UserError: there is no set, or its index is of another format or damaged.
    """
    try:
        text = storage.read_all(INDEX_NAME)
    except MissingError:
        raise UserError(f"{storage.place}: not a shard set (it has no {INDEX_NAME}); check the address") from None
    folder = cache / "indexes" / hashlib.sha256(text).hexdigest()
    with suppress(UserError):
        return Index.load(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with acquire(folder / "lock"):
            with suppress(UserError):
                return Index.load(folder)
            return _fetch(storage, text, folder)
    except (OSError, NotWritableError) as error:
        folder = _temporary_folder()
        _LOG.warning("the index of %s lies in %s, not in the cache folder: %s", storage.place, folder, error)
        return _fetch(storage, text, folder)


def _fetch(storage: Storage, text: bytes, folder: Path) -> Index:
    try:
        tables = {name: json.loads(text)["tables"][name] for name in TABLES}
        for name, table in tables.items():
            _fetch_table(storage, name, int(table["size"]), table["sha256"], folder / name)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        # The index is not what it should be; loading it says in which way.
    with atomic_path(folder / INDEX_NAME) as partial:
        partial.write_bytes(text)
    try:
        return Index.load(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), storage.place)) from None


def _fetch_table(storage: Storage, name: str, size: int, sha256: str, path: Path) -> None:
    digest = hashlib.sha256()
    with atomic_path(path) as partial, partial.open("wb") as file:
        for start in range(0, size, PIECE_BYTES):
            piece = storage.read(name, start, min(start + PIECE_BYTES, size))
            digest.update(piece)
            file.write(piece)
        file.flush()
        if digest.hexdigest() != sha256:
            raise UserError(
                f"{storage.locate(name)}: damaged or changed (it is not what {INDEX_NAME} says); "
                f"copy the whole set to {storage.place} anew"
            )


def _temporary_folder() -> Path:
    folder, maker = Path(tempfile.mkdtemp(prefix="ldarnet-index-")), os.getpid()

    def remove() -> None:
        if os.getpid() == maker:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
