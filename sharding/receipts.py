"""Receipts of an unfinished build, which let the same command resume the build.

The folder ``unfinished`` holds ``request.json``, one receipt for each packed part, and one seal for each source whose
parts are all packed. The folder is deleted when the set is complete. Each receipt and each seal includes a SHA-256 of
its content. A part whose receipt is damaged is packed again; a source whose seal is damaged is read again. Files with
names that no build writes are never deleted.
"""

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ldarnet.data.index_file import INDEX_NAME, TABLES, UNFINISHED, Shard, checksum
from ldarnet.errors import UserError
from ldarnet.io.files import (
    PARTIAL_SUFFIX,
    atomic_path,
    read_errors,
    sha256_file,
    space_errors,
    write_json_atomic,
)
from ldarnet.io.records import Count, Sha256, parse_record, read_record

RECEIPTS_VERSION = 3
"""Format version of the receipts of unfinished builds; receipts of other versions are discarded."""

_REQUEST = "request.json"
_ARRAYS = ("names", "contigs", "runs", "blocks")
_DIGEST_BYTES = 32
_MAX_JSON_BYTES = 2**26
_RECEIPT = re.compile(r"(\d{5,})-\d{4,}\.npz")
_SEAL = re.compile(r"(\d{5,})\.seal\.json")
_SHARD = re.compile(r"shard-\d{5,}-\d{4,}-\d{4,}\.tar")
_PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}" + re.escape(PARTIAL_SUFFIX))
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Location, size in bytes (None if unknown) and version of a source; see `SequenceSource.identity`."""

    location: str
    size: Count | None
    version: str


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Settings that all shards depend on."""

    made_by: str
    block: Count
    shard_size: Count
    receipts: Count = RECEIPTS_VERSION


@dataclass(frozen=True, slots=True)
class _Request:
    """Content of ``request.json``."""

    request: BuildRequest
    sources: list[SourceIdentity]


@dataclass(slots=True)
class PartReceipt:
    """Record of a packed part.

    Attributes:
        names: (n,) uint8, the contig names, encoded as in `ldarnet.data.contigs.Contigs`.
        contigs: structured array of dtype `CONTIG_ROW`; the columns ``species`` and ``source`` are zero.
        runs: (r, 2) int64, start and stop of each run of codes other than A, C, G, T.
        blocks: structured array of dtype `BLOCK_ROW`; contigs and shards are numbered from 0 within the part.
        shards: shards of the part.
        read: number of bytes read from the source for this part.
    """

    names: np.ndarray
    contigs: np.ndarray
    runs: np.ndarray
    blocks: np.ndarray
    shards: list[Shard]
    read: int = 0


@dataclass(frozen=True, slots=True)
class Seal:
    """Record of a source whose parts are all packed: size in bytes, SHA-256, and number of parts."""

    size: Count
    sha256: Sha256
    parts: Count


@dataclass(frozen=True, slots=True)
class _About:
    """The content of a receipt except for its arrays."""

    shards: list[Shard]
    read: Count


def part_name(source: int, part: int) -> str:
    """Name of a part, used in file names. Sorting the names sorts by source, then by part."""
    return f"{source:05d}-{part:04d}"


class Receipts:
    """The receipts and seals in the folder of a set."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = out / UNFINISHED

    def begin(self, request: BuildRequest, sources: list[SourceIdentity]) -> None:
        """Claim the folder, and delete files of an unfinished build that are no longer valid.

        Args:
            request: settings that all shards depend on; if they changed, all shards and receipts are deleted.
            sources: identity of each source; the shards of changed sources are deleted.

        Raises:
            UserError: the folder holds files that no build has written, or is not writable.
        """
        before = self._claim()
        old = before.sources if before and before.request == request else []
        same = [number for number, source in enumerate(sources) if old[number : number + 1] == [source]]
        self._clear(same)
        write_json_atomic(self._folder / _REQUEST, asdict(_Request(request, sources)), indent=1)

    def _claim(self) -> _Request | None:
        """Return the request of the unfinished build; if there is none, create the receipts folder and return None."""
        request = self._folder / _REQUEST
        if not request.is_file():
            if any(path != self._folder for path in self._out.iterdir()) or not self._is_new():
                raise UserError(
                    f"{self._out}: holds files that do not belong to a build; choose an empty or new --out folder"
                )
            with space_errors(self._folder):
                self._folder.mkdir(exist_ok=True)
            return None
        hint = f"if it belongs to a build, delete {self._out} and build the set again; otherwise choose another --out"
        before = read_record(request, _Request, hint=hint, max_bytes=_MAX_JSON_BYTES)
        if others := [path.name for path in self._folder.iterdir() if not _is_ours(path)]:
            raise UserError(f"{self._folder / others[0]}: not written by a build; move it to another folder")
        return before

    def _is_new(self) -> bool:
        """Whether no build has started: the folder of receipts is missing, or holds only partially written files."""
        if not self._folder.is_dir():
            return not self._folder.exists()
        return all(_PARTIAL.fullmatch(path.name) and _is_ours(path) for path in self._folder.iterdir())

    def has(self, source: int, part: int) -> bool:
        """Whether a part has a receipt."""
        return self._receipt(source, part).exists()

    def write(self, source: int, part: int, receipt: PartReceipt) -> None:
        """Write the receipt of a part whose shards are complete."""
        arrays = {name: getattr(receipt, name) for name in _ARRAYS}
        about = json.dumps(asdict(_About(receipt.shards, receipt.read)))
        arrays["about"] = np.frombuffer(about.encode(), dtype=np.uint8)
        content = io.BytesIO()
        np.savez(content, **arrays, allow_pickle=False)
        with atomic_path(self._receipt(source, part)) as partial, partial.open("wb") as file:
            file.write(content.getbuffer())
            file.write(hashlib.sha256(content.getbuffer()).digest())

    def read(self, source: int, part: int) -> PartReceipt:
        """The receipt of a packed part.

        Raises:
            UserError: the receipt is missing or damaged.
        """
        path = self._receipt(source, part)
        receipt = _read(path)
        if receipt is None:
            raise UserError(f"{path}: missing or damaged; run the same command again")
        return receipt

    def write_seal(self, source: int, seal: Seal) -> None:
        """Write the seal of a source."""
        content = asdict(seal)
        write_json_atomic(self._seal(source), content | {"checksum": checksum(content)})

    def seal(self, source: int) -> Seal | None:
        """The seal of a source; None if the source has no seal yet, or a damaged one."""
        path, hint = self._seal(source), "the source is read again"
        if not path.exists():
            return None
        try:
            content = read_record(path, dict[str, str | int], hint=hint, max_bytes=_MAX_JSON_BYTES)
            if content.pop("checksum", None) != checksum(content):
                raise UserError(f"{path}: damaged (it does not match its checksum); {hint}")
            return read_record(path, Seal, hint=hint, max_bytes=_MAX_JSON_BYTES)
        except UserError as error:
            _LOG.warning("%s", error)
            return None

    def new(self, known: set[str]) -> Iterator[PartReceipt]:
        """Yield the receipts whose file names are not in ``known``, and add these names to ``known``."""
        for path in sorted(self._folder.glob("*.npz")):
            if path.name not in known and (receipt := _read(path)) is not None:
                known.add(path.name)
                yield receipt

    def remove(self) -> None:
        """Delete all receipts and seals; keep the shards, and any file that no build has written."""
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if _is_ours(path):
                path.unlink()
        with suppress(OSError):  # other files remain
            self._folder.rmdir()

    def _receipt(self, source: int, part: int) -> Path:
        return self._folder / f"{part_name(source, part)}.npz"

    def _seal(self, source: int) -> Path:
        return self._folder / f"{source:05d}.seal.json"

    def _clear(self, same: list[int]) -> None:
        """Delete the files of the build, except the request and the files of unchanged sources.

        Args:
            same: indices of the unchanged sources. Their seals are kept. Each of their receipts is kept together
                with its shards, unless the receipt is damaged, or a shard is missing or damaged.
        """
        paths = sorted(self._folder.iterdir())
        receipts = [path for path in paths if _number(_RECEIPT, path) in same]
        with ThreadPoolExecutor() as pool:
            shards_of = dict(zip(receipts, pool.map(self._valid_shards, receipts), strict=True))
        kept = {path for path, shards in shards_of.items() if shards is not None} | {self._folder / _REQUEST}
        kept |= {path for path in paths if _number(_SEAL, path) in same}
        shards = {name for names in shards_of.values() for name in names or ()}
        leftovers = [path for path in paths if path not in kept]
        leftovers += [path for path in self._out.iterdir() if _is_shard(path) and path.name not in shards]
        for leftover in leftovers:
            leftover.unlink()

    def _valid_shards(self, path: Path) -> list[str] | None:
        """Names of the shards of a receipt; None if the receipt is damaged, or a shard is missing or damaged."""
        receipt = _read(path)
        if receipt is None:
            _LOG.warning("%s: damaged receipt; the part of the input that it covers will be packed again", path)
            return None
        for shard in receipt.shards:
            file = self._out / shard.name
            if not file.is_file() or file.stat().st_size != shard.size or sha256_file(file) != shard.sha256:
                return None
        return [shard.name for shard in receipt.shards]


def _number(pattern: re.Pattern[str], path: Path) -> int | None:
    """Index of the source, parsed from the name of a receipt or seal; None for other names."""
    match = pattern.fullmatch(path.name)
    return int(match[1]) if match else None


def _is_ours(path: Path) -> bool:
    """Whether a file in the folder of receipts has the name of a file that a build writes there."""
    partial = _PARTIAL.fullmatch(path.name)
    name = partial["name"] if partial else path.name
    is_ours = name == _REQUEST or any(pattern.fullmatch(name) for pattern in (_RECEIPT, _SEAL))
    return is_ours and path.is_file() and not path.is_symlink()


def _is_shard(path: Path) -> bool:
    """Whether a file in the set's folder has the name of a complete or partial shard, or of a partial index file."""
    partial = _PARTIAL.fullmatch(path.name)
    name = partial["name"] if partial else path.name
    is_ours = _SHARD.fullmatch(name) or (partial and name in (*TABLES, INDEX_NAME))
    return bool(is_ours) and path.is_file() and not path.is_symlink()


def _read(path: Path) -> PartReceipt | None:
    """Read a receipt; None if it is missing or does not match its SHA-256."""
    try:
        with read_errors(path):
            content = path.read_bytes()
    except UserError:
        return None
    content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in (*_ARRAYS, "about")}
    hint = "run the same command again"
    about = parse_record(arrays.pop("about").tobytes(), _About, where=str(path), hint=hint)
    return PartReceipt(**arrays, shards=about.shards, read=about.read)
