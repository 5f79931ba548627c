"""What an unfinished build leaves beside its shards, so that the same command goes on where it was stopped.

The folder ``unfinished`` holds ``request.json``, one receipt for each finished part, and for each source a plan (where
its parts begin) and a seal (its hash). All of it goes when the set is complete.
"""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.data.index import UNFINISHED, Shard
from ldarnet.data.writer import SHARD_PATTERN
from ldarnet.errors import UserError
from ldarnet.io.files import PARTIAL_SUFFIX, atomic_path, sha256_file, space_errors, write_json_atomic

_REQUEST = "request.json"
_ARRAYS = ("names", "contigs", "runs", "blocks")


@dataclass(slots=True)
class Receipt:
    """A part that is packed.

    Attributes:
        names: (n,) uint8, the contigs' names as `ldarnet.data.contigs.Contigs` keeps them.
        contigs: rows of `CONTIG_ROW`; species and source are still 0.
        runs: (r, 2) int64, runs of letters other than A, C, G, T.
        blocks: rows of `BLOCK_ROW`; contig and shard count from 0 in each part.
        shards: its shards.
        end: where the part ends in its source: byte (of a .2bit: contig) and line.
        read: bytes of the source that were read for it.
    """

    names: np.ndarray
    contigs: np.ndarray
    runs: np.ndarray
    blocks: np.ndarray
    shards: list[Shard]
    end: tuple[int, int]
    read: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A source that has been looked through to its end.

    Attributes:
        starts: where its parts begin and the last one ends: byte (of a .2bit: contig) and line.
    """

    starts: list[tuple[int, int]]

    @property
    def parts(self) -> int:
        """How many parts it has."""
        return len(self.starts) - 1


@dataclass(frozen=True, slots=True)
class Seal:
    """The bytes of a source: how many, and their SHA-256."""

    size: int
    sha256: str


def part_name(source: int, part: int) -> str:
    """What the names of a part's shards and of its receipt hold; they sort as parts and sources do."""
    return f"{source:05d}-{part:04d}"


class Receipts:
    """The receipts and plans in the folder of a set."""

    def __init__(self, out: Path) -> None:
        """Look into ``out``, which may hold none."""
        self._out = out
        self._folder = out / UNFINISHED

    def begin(self, request: dict[str, Any], sources: list[dict[str, Any]]) -> None:
        """Mark a folder as ours, and keep of an unfinished build what is still true.

        Args:
            request: what all shards depend on; with another one, nothing is kept.
            sources: the identity of each source; of one that differs, nothing is kept.

        Raises:
            UserError: the folder holds other files, or may not be written to.
        """
        if not (self._folder / _REQUEST).is_file():
            if any(path != self._folder for path in self._out.iterdir()) or not self._is_new():
                raise UserError(f"{self._out}: holds other files; name an empty or a new --out folder")
            with space_errors(self._folder):
                self._folder.mkdir(exist_ok=True)
        before = self._json(_REQUEST)
        old = before["sources"] if before.get("request") == request else []
        same = [number for number, source in enumerate(sources) if old[number : number + 1] == [source]]
        self._clear(same)
        write_json_atomic(self._folder / _REQUEST, {"request": request, "sources": sources}, indent=1)

    def _is_new(self) -> bool:
        """Whether there is no folder of receipts, or one in which a build was stopped before it said what it builds."""
        if not self._folder.is_dir():
            return not self._folder.exists()
        return all(path.name.endswith(PARTIAL_SUFFIX) for path in self._folder.iterdir())

    def has(self, source: int, part: int) -> bool:
        """Whether a part is packed."""
        return self._receipt(source, part).exists()

    def write(self, source: int, part: int, receipt: Receipt) -> None:
        """Say that a part is packed; its shards are in place."""
        about = {"shards": [asdict(shard) for shard in receipt.shards], "end": receipt.end, "read": receipt.read}
        arrays = {name: getattr(receipt, name) for name in _ARRAYS}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        with atomic_path(self._receipt(source, part)) as partial, partial.open("wb") as file:
            np.savez(file, **arrays, allow_pickle=False)

    def read(self, source: int, part: int) -> Receipt:
        """The receipt of a part that is packed."""
        return _read(self._receipt(source, part))

    def write_plan(self, source: int, plan: Plan) -> None:
        """Say where the parts of a source begin."""
        write_json_atomic(self._folder / f"{source:05d}.plan.json", asdict(plan))

    def plan(self, source: int) -> Plan | None:
        """The plan of a source, if it has one."""
        content = self._json(f"{source:05d}.plan.json")
        return Plan([tuple(start) for start in content["starts"]]) if content else None

    def write_seal(self, source: int, seal: Seal) -> None:
        """Say what the bytes of a source are."""
        write_json_atomic(self._folder / f"{source:05d}.seal.json", asdict(seal))

    def seal(self, source: int) -> Seal | None:
        """The seal of a source, if it has one."""
        content = self._json(f"{source:05d}.seal.json")
        return Seal(**content) if content else None

    def news(self, known: set[str]) -> Iterator[Receipt]:
        """The receipts whose names are not yet ``known``, which are added to them."""
        for path in sorted(self._folder.glob("*.npz")):
            if path.name not in known:
                known.add(path.name)
                yield _read(path)

    def remove(self) -> None:
        """All is done: leave the shards alone."""
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _receipt(self, source: int, part: int) -> Path:
        return self._folder / f"{part_name(source, part)}.npz"

    def _json(self, name: str) -> dict[str, Any]:
        """The content of a file that may not be there."""
        try:
            return json.loads((self._folder / name).read_bytes())
        except FileNotFoundError:
            return {}

    def _clear(self, same: list[int]) -> None:
        """Remove what is not known to be complete and of one of the sources that stayed the ``same``."""
        stems = {f"{number:05d}" for number in same}
        with ThreadPoolExecutor() as pool:
            receipts = [path for path in sorted(self._folder.glob("*.npz")) if path.name[:5] in stems]
            sound = dict(zip(receipts, pool.map(self._is_sound, receipts), strict=True))
        kept = {path.name for path in receipts if sound[path]} | {_REQUEST}
        kept |= {f"{stem}.{kind}.json" for stem in stems for kind in ("plan", "seal")}
        shards = {shard.name for path in receipts if sound[path] for shard in _read(path).shards}
        leftovers = [path for path in self._folder.iterdir() if path.name not in kept]
        leftovers += [path for path in self._out.glob(SHARD_PATTERN) if path.name not in shards]
        for leftover in (*leftovers, *self._out.glob(f".*{PARTIAL_SUFFIX}")):
            leftover.unlink()

    def _is_sound(self, receipt: Path) -> bool:
        """Whether the shards of a receipt are what it says."""
        for shard in _read(receipt).shards:
            path = self._out / shard.name
            if not path.is_file() or path.stat().st_size != shard.size or sha256_file(path) != shard.sha256:
                return False
        return True


def _read(path: Path) -> Receipt:
    with np.load(path, allow_pickle=False) as content:
        about = json.loads(content["about"].tobytes())
        arrays = {name: content[name] for name in _ARRAYS}
    shards = [Shard(**shard) for shard in about["shards"]]
    return Receipt(**arrays, shards=shards, end=tuple(about["end"]), read=about["read"])
