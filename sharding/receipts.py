"""Receipts of an unfinished build, which let the same command resume the build.

The folder ``unfinished`` holds ``request.json``, one receipt for each packed part, and one seal for each source whose
parts are all packed. The folder is deleted when the set is complete.
"""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.data.index_file import UNFINISHED, Shard
from ldarnet.data.writer import SHARD_PATTERN
from ldarnet.errors import UserError
from ldarnet.io.files import PARTIAL_SUFFIX, atomic_path, sha256_file, space_errors, write_json_atomic

_REQUEST = "request.json"
_ARRAYS = ("names", "contigs", "runs", "blocks")


@dataclass(slots=True)
class PartReceipt:
    """Record of a packed part.

    Attributes:
        names: (n,) uint8, the contig names, encoded as in `ldarnet.data.contigs.Contigs`.
        contigs: rows of `CONTIG_ROW`; the columns ``species`` and ``source`` are zero.
        runs: (r, 2) int64, start and stop of each run of letters other than A, C, G, T.
        blocks: rows of `BLOCK_ROW`; contigs and shards are numbered from 0 within the part.
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

    size: int
    sha256: str
    parts: int


def part_name(source: int, part: int) -> str:
    """Name of a part in file names; alphabetical order is by source, then by part."""
    return f"{source:05d}-{part:04d}"


class Receipts:
    """The receipts and seals in the folder of a set."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folder = out / UNFINISHED

    def begin(self, request: dict[str, Any], sources: list[dict[str, Any]]) -> None:
        """Claim the folder, and delete files of an unfinished build that are no longer valid.

        Args:
            request: settings that all shards depend on; if they changed, all shards and receipts are deleted.
            sources: identity of each source; the shards of changed sources are deleted.

        Raises:
            UserError: the folder holds other files or is not writable.
        """
        if not (self._folder / _REQUEST).is_file():
            if any(path != self._folder for path in self._out.iterdir()) or not self._is_new():
                raise UserError(f"{self._out}: holds other files; choose an empty or new --out folder")
            with space_errors(self._folder):
                self._folder.mkdir(exist_ok=True)
        before = self._json(_REQUEST)
        old = before["sources"] if before.get("request") == request else []
        same = [number for number, source in enumerate(sources) if old[number : number + 1] == [source]]
        self._clear(same)
        write_json_atomic(self._folder / _REQUEST, {"request": request, "sources": sources}, indent=1)

    def _is_new(self) -> bool:
        """Whether no build has started: the folder of receipts is missing, or contains only partially written files."""
        if not self._folder.is_dir():
            return not self._folder.exists()
        return all(path.name.endswith(PARTIAL_SUFFIX) for path in self._folder.iterdir())

    def has(self, source: int, part: int) -> bool:
        """Whether a part has a receipt."""
        return self._receipt(source, part).exists()

    def write(self, source: int, part: int, receipt: PartReceipt) -> None:
        """Write the receipt of a part whose shards are complete."""
        about = {"shards": [asdict(shard) for shard in receipt.shards], "read": receipt.read}
        arrays = {name: getattr(receipt, name) for name in _ARRAYS}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        with atomic_path(self._receipt(source, part)) as partial, partial.open("wb") as file:
            np.savez(file, **arrays, allow_pickle=False)

    def read(self, source: int, part: int) -> PartReceipt:
        """The receipt of a packed part."""
        return _read(self._receipt(source, part))

    def write_seal(self, source: int, seal: Seal) -> None:
        """Write the seal of a source."""
        write_json_atomic(self._folder / f"{source:05d}.seal.json", asdict(seal))

    def seal(self, source: int) -> Seal | None:
        """The seal of a source; None if the source has no seal yet."""
        content = self._json(f"{source:05d}.seal.json")
        return Seal(**content) if content else None

    def new(self, known: set[str]) -> Iterator[PartReceipt]:
        """Yield the receipts whose file names are not in ``known``, and add these names to ``known``."""
        for path in sorted(self._folder.glob("*.npz")):
            if path.name not in known:
                known.add(path.name)
                yield _read(path)

    def remove(self) -> None:
        """Delete all receipts and seals; keep the shards."""
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _receipt(self, source: int, part: int) -> Path:
        return self._folder / f"{part_name(source, part)}.npz"

    def _json(self, name: str) -> dict[str, Any]:
        """Read a JSON file; return an empty dict if it does not exist."""
        try:
            return json.loads((self._folder / name).read_bytes())
        except FileNotFoundError:
            return {}

    def _clear(self, same: list[int]) -> None:
        """Delete the files of the build; keep the request and, for sources ``same``, valid receipts, shards and seals.

        Args:
            same: numbers of the unchanged sources.
        """
        stems = {f"{number:05d}" for number in same}
        with ThreadPoolExecutor() as pool:
            receipts = [path for path in sorted(self._folder.glob("*.npz")) if path.name[:5] in stems]
            valid = dict(zip(receipts, pool.map(self._is_valid, receipts), strict=True))
        kept = {path.name for path in receipts if valid[path]} | {_REQUEST} | {f"{stem}.seal.json" for stem in stems}
        shards = {shard.name for path in receipts if valid[path] for shard in _read(path).shards}
        leftovers = [path for path in self._folder.iterdir() if path.name not in kept]
        leftovers += [path for path in self._out.glob(SHARD_PATTERN) if path.name not in shards]
        for leftover in (*leftovers, *self._out.glob(f".*{PARTIAL_SUFFIX}")):
            leftover.unlink()

    def _is_valid(self, receipt: Path) -> bool:
        """Whether all shards listed in a receipt exist and match the hashes in the receipt."""
        for shard in _read(receipt).shards:
            path = self._out / shard.name
            if not path.is_file() or path.stat().st_size != shard.size or sha256_file(path) != shard.sha256:
                return False
        return True


def _read(path: Path) -> PartReceipt:
    with np.load(path, allow_pickle=False) as content:
        about = json.loads(content["about"].tobytes())
        arrays = {name: content[name] for name in _ARRAYS}
    return PartReceipt(**arrays, shards=[Shard(**shard) for shard in about["shards"]], read=about["read"])
