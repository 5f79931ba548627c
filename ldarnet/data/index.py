"""The index of a shard set: what it holds, where each block lies, and what the bytes must hash to."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.errors import UserError
from ldarnet.files import read_errors, write_json_atomic

INDEX_NAME = "index.json"
FORMAT_NAME = "ldarnet-shards"
FORMAT_VERSION = 1
BLOCK_COLUMNS = ("contig", "start", "length", "shard", "offset", "size", "sha256")


@dataclass(frozen=True, slots=True)
class Contig:
    """One sequence of the input.

    Attributes:
        name: first word of its FASTA header.
        length: bases.
        source: number of its source file.
        sha256: of its letters as they stand in the file, without line ends.
        n_runs: (r, 2) int64, start and stop of each run of letters other than A, C, G, T.
    """

    name: str
    length: int
    source: int
    sha256: str
    n_runs: np.ndarray


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file: name, bytes and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Blocks:
    """One entry a block, in order of contig and start.

    Attributes:
        contig: (b,) int64, number of the contig.
        start: (b,) int64, first base, counted from the start of the contig.
        length: (b,) int64, bases.
        shard: (b,) int64, number of the shard.
        offset: (b,) int64, first byte of the frame in the shard.
        size: (b,) int64, bytes of the frame.
        sha256: of each frame.
    """

    contig: np.ndarray
    start: np.ndarray
    length: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    sha256: list[str]

    def __len__(self) -> int:
        return len(self.sha256)


@dataclass(frozen=True)
class Index:
    """All that is known of a shard set without reading a shard.

    Attributes:
        tool: name and version of the program that built it.
        recipe: what it was built from (source files with their hashes) and how; equal recipes give equal sets.
        contigs: in the order of the input.
        splits: name -> (s, 3) int64, contig number, start and stop of each interval, in order and without overlap.
        blocks: where the bases lie.
        shards: the tar files.
    """

    tool: str
    recipe: dict[str, Any]
    contigs: list[Contig]
    splits: dict[str, np.ndarray]
    blocks: Blocks
    shards: list[Shard]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content: contigs, their letters and the splits; not of file names, blocks or compression."""
        content = {"version": FORMAT_VERSION, "contigs": self._contigs_as_json(), "splits": self._splits_as_json()}
        for contig in content["contigs"]:
            del contig["source"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def first_block(self) -> np.ndarray:
        """(contigs + 1,) int64: the blocks of contig c are ``first_block[c]`` to ``first_block[c + 1]``."""
        return np.searchsorted(self.blocks.contig, np.arange(len(self.contigs) + 1))

    def describe_block(self, block: int) -> str:
        """Where a block lies, in words for a message."""
        blocks = self.blocks
        start = int(blocks.start[block])
        name = self.contigs[blocks.contig[block]].name
        return f"block {block} ({name}:{start}-{start + blocks.length[block]})"

    def save(self, folder: Path) -> None:
        """Write ``index.json``; to be called last, when every shard is in its place.

        Raises:
            UserError: the device is full.
        """
        blocks = {name: getattr(self.blocks, name) for name in BLOCK_COLUMNS}
        content = {
            "format": FORMAT_NAME,
            "version": FORMAT_VERSION,
            "tool": self.tool,
            "fingerprint": self.fingerprint,
            "recipe": self.recipe,
            "contigs": self._contigs_as_json(),
            "splits": self._splits_as_json(),
            "shards": [{"name": shard.name, "size": shard.size, "sha256": shard.sha256} for shard in self.shards],
            "blocks": {name: column if name == "sha256" else column.tolist() for name, column in blocks.items()},
        }
        write_json_atomic(folder / INDEX_NAME, content)

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """Read and check ``index.json``.

        Raises:
            UserError: the folder is no shard set, or its index is of a newer format, damaged or not ours to read.
        """
        path = folder / INDEX_NAME
        with read_errors(path):
            try:
                text = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                raise UserError(
                    f"{folder}: not a shard set (it has no {INDEX_NAME}); "
                    f"build one with `python -m sharding.build --out {folder} genome.fa.gz --split valid=CONTIG`"
                ) from None
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); delete {folder} and build it again") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT_NAME:
            raise UserError(f"{path}: not the index of a shard set; name a folder made by `python -m sharding.build`")
        if content.get("version") != FORMAT_VERSION:
            raise UserError(
                f"{path}: format version {content.get('version')}, but this program reads version {FORMAT_VERSION}; "
                "upgrade ldarnet or build the set again"
            )
        try:
            index = cls._from_json(content)
            if index.fingerprint == content["fingerprint"] and index._tiles():
                return index
        except (KeyError, TypeError, ValueError, OverflowError):
            pass
        raise UserError(
            f"{path}: damaged (its content does not match its fingerprint); delete {folder} and build it again"
        )

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> "Index":
        contigs = [
            Contig(
                name=contig["name"],
                length=contig["length"],
                source=contig["source"],
                sha256=contig["sha256"],
                n_runs=_rows(contig["n_runs"], 2),
            )
            for contig in content["contigs"]
        ]
        columns = content["blocks"]
        places = (np.array(columns[name], dtype=np.int64) for name in BLOCK_COLUMNS[:-1])
        return cls(
            tool=content["tool"],
            recipe=content["recipe"],
            contigs=contigs,
            splits={name: _rows(rows, 3) for name, rows in content["splits"].items()},
            blocks=Blocks(*places, sha256=columns["sha256"]),
            shards=[Shard(**shard) for shard in content["shards"]],
        )

    def _contigs_as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "name": contig.name,
                "length": contig.length,
                "source": contig.source,
                "sha256": contig.sha256,
                "n_runs": contig.n_runs.tolist(),
            }
            for contig in self.contigs
        ]

    def _splits_as_json(self) -> dict[str, list[list[int]]]:
        return {name: rows.tolist() for name, rows in self.splits.items()}

    def _tiles(self) -> bool:
        """Whether the blocks cover each contig once from end to end and name only shards there are."""
        blocks, lengths = self.blocks, np.array([contig.length for contig in self.contigs], dtype=np.int64)
        columns = (blocks.contig, blocks.start, blocks.length, blocks.shard, blocks.offset, blocks.size)
        if any(len(column) != len(blocks) for column in columns):
            return False
        stops = blocks.start + blocks.length
        follows = np.diff(blocks.contig, prepend=-1, append=len(lengths))
        begins, ends = follows[:-1] == 1, follows[1:] == 1
        continues = blocks.start[~begins] == stops[np.flatnonzero(~begins) - 1]
        return bool(
            np.isin(follows, (0, 1)).all()
            and (blocks.start[begins] == 0).all()
            and continues.all()
            and (stops[ends] == lengths).all()
            and (blocks.length > 0).all()
            and ((blocks.shard >= 0) & (blocks.shard < len(self.shards))).all()
        )


def some_names(names: Iterable[str], most: int = 6) -> str:
    """The first few names, for a message."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def _rows(values: list[list[int]], width: int) -> np.ndarray:
    return np.array(values, dtype=np.int64).reshape(-1, width)
