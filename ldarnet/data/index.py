"""The index of a shard set: its contigs, its splits, and the location and SHA-256 of every block.

``index.json`` is small. Everything that grows with the number of contigs or blocks is in binary tables beside it. The
tables are memory-mapped, so all processes of a machine share them, and they need no parsing.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from ldarnet.data.blocks import BLOCK_ROW, Blocks
from ldarnet.data.contigs import CONTIG_ROW, Contigs, names_as_lines
from ldarnet.data.index_checks import find_fault
from ldarnet.data.index_file import (
    FORMAT_NAME,
    FORMAT_VERSION,
    INDEX_NAME,
    TABLES,
    IndexFile,
    IndexTable,
    Shard,
    checksum,
    read_index,
)
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path, read_errors, sha256_file, write_json_atomic
from ldarnet.printable import printable

_COUNT = np.dtype("<i8")


@dataclass(frozen=True)
class _Sink:
    """Wrapper of a file that makes `np.save` call ``write``.

    `np.save` writes to a real file without calling ``write``, and its error for a full disk then has no errno.
    """

    file: BinaryIO

    def write(self, data: bytes) -> int:
        return self.file.write(data)


@dataclass(frozen=True, eq=False)
class Index:
    """The metadata of a shard set.

    Attributes:
        tool: name and version of the program that built the shard set.
        recipe: inputs (source files with their hashes) and options of the build; equal recipes give equal sets.
        contigs: the contigs, in the order of the input.
        splits: name -> (s, 3) int64 with contig index, start and stop of each interval; sorted, disjoint intervals.
        runs: (r, 2) int64, start and stop of each run of codes other than A, C, G, T, in order of contig.
        blocks: the blocks and their locations.
        shards: the tar files.
        folder: folder that the index was loaded from, or None. Unpickling memory-maps the tables in this folder again.
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
        """SHA-256 of contigs, sequences and splits. It does not depend on file names, blocks or compression."""
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
        """Index of the first run of each contig, (contigs + 1,) int64; the last entry is the number of runs."""
        return np.concatenate(([0], np.cumsum(self.contigs.runs)))

    @cached_property
    def first_block(self) -> np.ndarray:
        """Index of the first block of each contig, (contigs + 1,) int64; the last entry is the number of blocks."""
        return np.concatenate(([0], np.cumsum(np.bincount(self.blocks.contig, minlength=len(self.contigs)))))

    def name(self, contig: int) -> str:
        """The full name of a contig: ``species/name``, or ``name`` if the species is unnamed."""
        return self.contigs.name(contig)

    def number(self, name: str) -> int:
        """Look up the index of a contig by its full name, or by a bare name that is unique among the species.

        Raises:
            UserError: no contig or several contigs have this name.
        """
        return self.contigs.number(name)

    def describe_block(self, block: int) -> str:
        """Describe a block for messages: its index and its coordinates (1-based, inclusive)."""
        blocks = self.blocks
        start, name = int(blocks.start[block]), printable(self.name(int(blocks.contig[block])))
        return f"block {block} ({name}:{start + 1}-{start + blocks.length[block]})"

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
                np.save(_Sink(file), array, allow_pickle=False)
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
            "tables": {name: asdict(_describe(folder / name)) for name in TABLES},
            "shards": [asdict(shard) for shard in self.shards],
        }
        write_json_atomic(folder / INDEX_NAME, content | {"checksum": checksum(content)}, indent=1)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Memory-map an index, verify its hashes and check its content.

        Raises:
            UserError: the folder is not a shard set, or its index is damaged, unreadable or in an unsupported format.
        """
        content = read_index(folder)
        path, hint = folder / INDEX_NAME, f"delete {folder} and build it again"
        with ThreadPoolExecutor(len(TABLES)) as pool:
            found = dict(zip(TABLES, pool.map(lambda name: _describe(folder / name), TABLES), strict=True))
        if wrong := [name for name in TABLES if found[name] != content.tables[name]]:
            raise UserError(f"{folder / wrong[0]}: damaged (it does not match {path}); {hint}")
        index = cls._map(folder, content)
        if index.fingerprint != content.fingerprint:
            raise UserError(f"{path}: damaged (its content does not match its fingerprint); {hint}")
        if fault := find_fault(index.contigs, index.blocks, index.runs, index.splits, index.shards):
            raise UserError(f"{path}: damaged ({fault}); {hint}")
        return index

    @classmethod
    def reload(cls, folder: Path, fingerprint: str) -> Self:
        """Memory-map an index that `load` verified earlier, possibly in another process.

        Raises:
            UserError: the index has changed since then.
        """
        content = read_index(folder)
        if content.fingerprint != fingerprint:
            raise UserError(f"{folder / INDEX_NAME}: changed while in use; run the same command again")
        return cls._map(folder, content)

    def __reduce__(self) -> tuple[Any, ...]:
        assert self.folder is not None, "only a loaded index can be sent to another process"
        return type(self).reload, (self.folder.absolute(), self.fingerprint)

    @classmethod
    def _map(cls, folder: Path, content: IndexFile) -> Self:
        try:
            names = np.asarray(np.memmap(folder / "names.txt", dtype=np.uint8, mode="r"))
            rows = _map_table(folder / "splits.npy", _COUNT, 3)
            stops = np.cumsum(list(content.splits.values()), dtype=np.int64)
            if stops[-1] != len(rows):
                raise ValueError("splits.npy has the wrong length")
            contigs = Contigs.from_rows(content.species, names, _map_table(folder / "contigs.npy", CONTIG_ROW))
            runs = _map_table(folder / "letter_runs.npy", _COUNT, 2)
            blocks = Blocks.from_rows(_map_table(folder / "blocks.npy", BLOCK_ROW))
        except ValueError as error:
            hint = f"delete {folder} and build it again"
            raise UserError(f"{folder / INDEX_NAME}: damaged ({error}); {hint}") from None
        return cls(
            tool=content.tool,
            recipe=content.recipe.model_dump(),
            contigs=contigs,
            splits=dict(zip(content.splits, np.split(rows, stops[:-1]), strict=True)),
            runs=runs,
            blocks=blocks,
            shards=content.shards,
            folder=folder,
        )


def _describe(path: Path) -> IndexTable:
    with read_errors(path):
        return IndexTable(path.stat().st_size, sha256_file(path))


def _map_table(path: Path, row: np.dtype, *width: int) -> np.ndarray:
    """Memory-map a table whose rows have the given dtype and shape.

    Raises:
        ValueError: the file is not a table of this dtype and shape.
    """
    try:
        table = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # a malformed header raises exceptions of many kinds
        raise ValueError(f"{path.name} is not a table ({type(error).__name__})") from None
    if table.dtype != row or table.shape[1:] != width or table.ndim != 1 + len(width):
        raise ValueError(f"{path.name} has an unexpected dtype or shape")
    return table
