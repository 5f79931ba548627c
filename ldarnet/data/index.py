"""The index of a shard set: contigs, splits, and location and SHA-256 of every block.

``index.json`` is small. Everything that grows with the number of contigs or blocks is in flat tables beside it, which
are memory-mapped, shared by all processes of a machine, and not parsed.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from ldarnet.data.contigs import CONTIG_ROW, Contigs, names_as_lines
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path, read_errors, sha256_file, write_json_atomic

INDEX_NAME = "index.json"
UNFINISHED = "unfinished"
"""Subfolder of the output folder that exists only while a build is unfinished."""
FORMAT_NAME = "ldarnet-shards"
FORMAT_VERSION = 2
TABLES = ("contigs.npy", "names.txt", "letter_runs.npy", "splits.npy", "blocks.npy")
"""The files that ``index.json`` describes."""

BLOCK_ROW = np.dtype(
    [
        *((name, "<i8") for name in ("contig", "start", "length", "shard", "offset", "size")),
        ("sha256", "u1", (32,)),
    ]
)
_COUNT = np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar file: name, size in bytes and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of a set as columns, in order of contig and start.

    Attributes:
        contig: (b,) int64, number of the contig.
        start: (b,) int64, first base in the contig, 0-based.
        length: (b,) int64, number of bases.
        shard: (b,) int64, number of the shard.
        offset: (b,) int64, first byte of the frame in the shard.
        size: (b,) int64, size of the frame in bytes.
        sha256: (b, 32) uint8, SHA-256 of the frame.
    """

    contig: np.ndarray
    start: np.ndarray
    length: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    sha256: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> Self:
        """Build the columns from stored rows of `BLOCK_ROW`."""
        return cls(**{name: rows[name] for name in BLOCK_ROW.names or ()})

    def rows(self) -> np.ndarray:
        """The columns as rows of `BLOCK_ROW`."""
        rows = np.empty(len(self), dtype=BLOCK_ROW)
        for name in BLOCK_ROW.names or ():
            rows[name] = getattr(self, name)
        return rows

    def __len__(self) -> int:
        return len(self.contig)


@dataclass(frozen=True, eq=False)
class Index:
    """The metadata of a shard set.

    Attributes:
        tool: name and version of the program that built the shard set.
        recipe: inputs (source files with their hashes) and options of the build; equal recipes give equal sets.
        contigs: the contigs, in the order of the input.
        splits: name -> (s, 3) int64, contig number, start and stop of each interval, sorted and disjoint.
        runs: (r, 2) int64, start and stop of each run of codes other than A, C, G, T, in order of contig.
        blocks: the blocks and their locations.
        shards: the tar files.
        folder: folder the index was loaded from; unpickling maps the tables in this folder again.
    """

    tool: str
    recipe: dict[str, Any]
    contigs: Contigs
    splits: dict[str, np.ndarray]
    runs: np.ndarray
    blocks: Blocks
    shards: list[Shard]
    folder: Path | None = field(default=None, repr=False)

    @property
    def species(self) -> list[str]:
        """Names of the species, in order of first appearance; "" if unnamed."""
        return self.contigs.species_names

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of contigs, sequences and splits. Independent of file names, blocks and compression."""
        contigs = self.contigs
        parts = {
            "species": names_as_lines(self.species),
            "names": contigs.names,
            "length": contigs.length,
            "species of contigs": contigs.species,
            "sha256": contigs.sha256,
            "number of runs": contigs.runs,
            "runs": self.runs,
        }
        parts |= {f"split {name}": self.splits[name] for name in sorted(self.splits)}
        with ThreadPoolExecutor(len(parts)) as pool:
            digests = pool.map(lambda part: hashlib.sha256(np.ascontiguousarray(part).data).hexdigest(), parts.values())
        content = [FORMAT_NAME, FORMAT_VERSION, *zip(parts, digests, strict=True)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def first_run(self) -> np.ndarray:
        """(contigs + 1,) int64: the runs of contig c are ``runs[first_run[c]:first_run[c + 1]]``."""
        return np.concatenate(([0], np.cumsum(self.contigs.runs)))

    @cached_property
    def first_block(self) -> np.ndarray:
        """(contigs + 1,) int64: the blocks of contig c are ``range(first_block[c], first_block[c + 1])``."""
        return np.concatenate(([0], np.cumsum(np.bincount(self.blocks.contig, minlength=len(self.contigs)))))

    def name(self, contig: int) -> str:
        """The full name of a contig: ``species/name``, or ``name`` if the species is unnamed."""
        return self.contigs.name(contig)

    def number(self, name: str) -> int:
        """The number of a contig, by its full name or by a bare name that is unique among the species.

        Raises:
            UserError: no contig or several contigs have this name.
        """
        return self.contigs.number(name)

    def describe_block(self, block: int) -> str:
        """Describe a block in messages: its number, and its coordinates (1-based, inclusive)."""
        blocks = self.blocks
        start = int(blocks.start[block])
        return f"block {block} ({self.name(int(blocks.contig[block]))}:{start + 1}-{start + blocks.length[block]})"

    def save(self, folder: Path) -> None:
        """Write the tables and then ``index.json``. Call this after all shards are complete.

        Raises:
            UserError: the disk is full.
        """
        arrays = {
            "contigs.npy": self.contigs.rows(),
            "letter_runs.npy": self.runs,
            "splits.npy": np.concatenate([np.zeros((0, 3), dtype=np.int64), *self.splits.values()]),
            "blocks.npy": self.blocks.rows(),
        }
        for name, array in arrays.items():
            with atomic_path(folder / name) as partial, partial.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        with atomic_path(folder / "names.txt") as partial:
            partial.write_bytes(self.contigs.names.tobytes())
        content = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "tool": self.tool,
            "fingerprint": self.fingerprint,
            "recipe": self.recipe,
            "species": self.species,
            "splits": {name: len(rows) for name, rows in self.splits.items()},
            "tables": {name: _describe(folder / name) for name in TABLES},
            "shards": [{"name": shard.name, "size": shard.size, "sha256": shard.sha256} for shard in self.shards],
        }
        write_json_atomic(folder / INDEX_NAME, content | {"checksum": _checksum(content)}, indent=1)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Map an index and verify its hashes.

        Raises:
            UserError: the folder is not a shard set, or its index is of an unsupported format, damaged or unreadable.
        """
        content = _read_json(folder)
        path, hint = folder / INDEX_NAME, f"delete {folder} and build it again"
        if content.pop("checksum", None) != _checksum(content):
            raise UserError(f"{path}: damaged (it does not match its checksum); {hint}")
        with ThreadPoolExecutor(len(TABLES)) as pool:
            found = dict(zip(TABLES, pool.map(lambda name: _describe(folder / name), TABLES), strict=True))
        if wrong := [name for name in TABLES if found[name] != content.get("tables", {}).get(name)]:
            raise UserError(f"{folder / wrong[0]}: damaged (it does not match {path}); {hint}")
        try:
            index = cls._map(folder, content)
            if index.fingerprint == content["fingerprint"] and index._tiles():
                return index
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError):
            pass
        raise UserError(f"{path}: damaged (its content does not match its fingerprint); {hint}")

    @classmethod
    def reload(cls, folder: Path, fingerprint: str) -> Self:
        """Map an index that `load` verified earlier, possibly in another process.

        Raises:
            UserError: the index in the folder has changed since.
        """
        content = _read_json(folder)
        if content.get("fingerprint") != fingerprint:
            raise UserError(f"{folder / INDEX_NAME}: changed while in use; run the same command again")
        return cls._map(folder, content)

    def __reduce__(self) -> tuple[Any, ...]:
        assert self.folder is not None, "only a loaded index can be sent to another process"
        return type(self).reload, (self.folder.absolute(), self.fingerprint)

    @classmethod
    def _map(cls, folder: Path, content: dict[str, Any]) -> Self:
        names = np.asarray(np.memmap(folder / "names.txt", dtype=np.uint8, mode="r"))
        rows = _map_table(folder / "splits.npy", _COUNT, 3)
        stops = np.cumsum(list(content["splits"].values()), dtype=np.int64)
        shards = [Shard(**shard) for shard in content["shards"]]
        if stops[-1] != len(rows) or any(Path(shard.name).name != shard.name for shard in shards):
            raise ValueError(f"{folder}: splits.npy has the wrong length, or a shard is outside the folder")
        return cls(
            tool=content["tool"],
            recipe=content["recipe"],
            contigs=Contigs.from_rows(content["species"], names, _map_table(folder / "contigs.npy", CONTIG_ROW)),
            splits=dict(zip(content["splits"], np.split(rows, stops[:-1]), strict=True)),
            runs=_map_table(folder / "letter_runs.npy", _COUNT, 2),
            blocks=Blocks.from_rows(_map_table(folder / "blocks.npy", BLOCK_ROW)),
            shards=shards,
            folder=folder,
        )

    def _tiles(self) -> bool:
        """Whether the blocks cover each contig exactly once and every shard number is valid."""
        blocks, lengths = self.blocks, self.contigs.length
        stops = blocks.start + blocks.length
        steps = np.diff(blocks.contig, prepend=-1, append=len(lengths))
        begins, ends = steps[:-1] == 1, steps[1:] == 1
        continues = blocks.start[~begins] == stops[np.flatnonzero(~begins) - 1]
        return bool(
            ((steps == 0) | (steps == 1)).all()
            and (blocks.start[begins] == 0).all()
            and continues.all()
            and (stops[ends] == lengths).all()
            and (blocks.length > 0).all()
            and ((blocks.shard >= 0) & (blocks.shard < len(self.shards))).all()
            and self.first_run[-1] == len(self.runs)
        )


def _read_json(folder: Path) -> dict[str, Any]:
    """Read ``index.json`` of the supported format and version, without verifying its content."""
    path = folder / INDEX_NAME
    with read_errors(path):
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            hint = f"build one with `ldarnet shard --out {folder} genome.fa.gz --split valid=CONTIG`"
            if (folder / UNFINISHED).is_dir():
                hint = "its build is unfinished: run the same build command again to resume it"
            raise UserError(f"{folder}: not a shard set (it has no {INDEX_NAME}); {hint}") from None
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); delete {folder} and build it again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
        raise UserError(f"{path}: not the index of a shard set; use a folder built by `ldarnet shard`")
    version = content.get("version")
    if version != FORMAT_VERSION:
        hint = "upgrade ldarnet" if isinstance(version, int) and version > FORMAT_VERSION else "build it again"
        raise UserError(f"{path}: format version {version}, but this program reads version {FORMAT_VERSION}; {hint}")
    return content


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the content of ``index.json`` without the checksum itself."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _describe(path: Path) -> dict[str, Any]:
    with read_errors(path):
        return {"size": path.stat().st_size, "sha256": sha256_file(path)}


def _map_table(path: Path, row: np.dtype, *width: int) -> np.ndarray:
    """Map a table whose rows have the given dtype and shape."""
    table = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    if table.dtype != row or table.shape[1:] != width:
        raise ValueError(f"{path}: unexpected dtype or shape")
    return table
