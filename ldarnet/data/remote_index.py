"""Download the index of a remote set once per machine, so that it can be mapped into memory."""

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ldarnet.data.index import Index
from ldarnet.data.index_file import INDEX_NAME, TABLES, IndexTable, parse_index
from ldarnet.errors import UserError
from ldarnet.io.files import NotWritableError, atomic_path
from ldarnet.io.lock import acquire
from ldarnet.io.records import MAX_BYTES
from ldarnet.io.storage import MissingError, Storage, repair_hint

PART_BYTES = 16 * 2**20
"""Size of the parts in which tables are fetched; each part has its own retries."""

_LOG = logging.getLogger(__name__)


def load_remote_index(storage: Storage, cache: Path) -> Index:
    """Load the index of a remote set, and cache it in ``cache/indexes/<SHA-256 of index.json>``.

    If ``cache`` is not writable, the index is stored in a temporary folder that is deleted when this process exits.

    Raises:
        UserError: ``storage`` does not hold a shard set, or the index has an unsupported format or is damaged.
    """
    try:
        text = storage.read_all(INDEX_NAME, MAX_BYTES)
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
        _LOG.warning("storing the index of %s in %s instead of the cache folder: %s", storage.place, folder, error)
        return _fetch(storage, text, folder)


def _fetch(storage: Storage, text: bytes, folder: Path) -> Index:
    content = parse_index(text, where=storage.locate(INDEX_NAME), hint=repair_hint(storage.place))
    for name in TABLES:
        _fetch_table(storage, name, content.tables[name], folder / name)
    with atomic_path(folder / INDEX_NAME) as partial:
        partial.write_bytes(text)
    try:
        return Index.load(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), storage.place)) from None


def _fetch_table(storage: Storage, name: str, table: IndexTable, path: Path) -> None:
    digest = hashlib.sha256()
    with atomic_path(path) as partial, partial.open("wb") as file:
        for start in range(0, table.size, PART_BYTES):
            part = storage.read(name, start, min(start + PART_BYTES, table.size))
            digest.update(part)
            file.write(part)
        file.flush()
        if digest.hexdigest() != table.sha256:
            raise UserError(
                f"{storage.locate(name)}: damaged or changed (it does not match {INDEX_NAME}); "
                f"copy the whole set to {storage.place} again"
            )


def _temporary_folder() -> Path:
    folder, creator = Path(tempfile.mkdtemp(prefix="ldarnet-index-")), os.getpid()

    def remove() -> None:
        if os.getpid() == creator:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
