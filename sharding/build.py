"""Build a shard set from FASTA files: ``python -m sharding.build --out DIR [FASTA ...]``."""

import argparse
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ldarnet.data.format import pack_block
from ldarnet.data.index import INDEX_NAME, Contig, Index
from ldarnet.data.writer import SHARD_PATTERN, PackedBlock, write_shards
from ldarnet.errors import UserError
from ldarnet.files import PARTIAL_SUFFIX, file_size, read_errors, sha256_file, space_errors, write_json_atomic
from ldarnet.version import __version__
from sharding.fasta import read_fasta
from sharding.genomes import BUNDLED_FASTA, BUNDLED_SPLITS
from sharding.program import run
from sharding.splits import parse_contig_splits, read_bed, splits_by_contig, splits_by_interval

BLOCK_BASES = 2**20
SHARD_BYTES = 256 * 2**20
_UNFINISHED_NAME = "unfinished.json"


class ContigReader:
    """Cuts FASTA files into packed blocks and keeps what the index must know of each contig.

    Attributes:
        contigs: those read to their end.
    """

    def __init__(self, fastas: Sequence[Path], block: int) -> None:
        """Read ``fastas`` in blocks of ``block`` bases."""
        self.contigs: list[Contig] = []
        self._fastas = fastas
        self._block = block

    def blocks(self) -> Iterator[PackedBlock]:
        """The blocks of all contigs in order.

        Raises:
            UserError: bad input, or a contig name that came before.
        """
        seen: dict[str, Path] = {}
        for source, path in enumerate(self._fastas):
            contig: _OpenContig | None = None
            for item in read_fasta(path):
                if isinstance(item, bytes):
                    assert contig is not None
                    yield from contig.add(item)
                    continue
                if item in seen:
                    other = "the same file" if seen[item] == path else str(seen[item])
                    raise UserError(f"{path}: contig {item!r} is also in {other}; give every contig a name of its own")
                seen[item] = path
                if contig is not None:
                    yield from self._close(contig)
                contig = _OpenContig(item, source, len(self.contigs), self._block)
            assert contig is not None
            yield from self._close(contig)

    def _close(self, contig: "_OpenContig") -> Iterator[PackedBlock]:
        yield from contig.finish()
        self.contigs.append(contig.summary())


class _OpenContig:
    def __init__(self, name: str, source: int, number: int, block: int) -> None:
        self._name = name
        self._source = source
        self._number = number
        self._block = block
        self._pending = bytearray()
        self._start = 0
        self._hash = hashlib.sha256()
        self._runs: list[np.ndarray] = []

    def add(self, letters: bytes) -> Iterator[PackedBlock]:
        self._hash.update(letters)
        self._pending += letters
        while len(self._pending) >= self._block:
            yield self._cut(self._block)

    def finish(self) -> Iterator[PackedBlock]:
        if self._pending:
            yield self._cut(len(self._pending))

    def summary(self) -> Contig:
        runs = np.concatenate([np.zeros((0, 2), dtype=np.int64), *self._runs])
        apart = runs[1:, 0] > runs[:-1, 1]
        begins, ends = np.append(True, apart)[: len(runs)], np.append(apart, True)[: len(runs)]
        n_runs = np.stack((runs[begins, 0], runs[ends, 1]), axis=1)
        return Contig(self._name, self._start, self._source, self._hash.hexdigest(), n_runs)

    def _cut(self, length: int) -> PackedBlock:
        text = bytes(self._pending[:length])
        del self._pending[:length]
        frame, runs = pack_block(text)
        block = PackedBlock(self._number, self._start, length, frame)
        self._runs.append(runs + self._start)
        self._start += length
        return block


def build(
    out: Path,
    fastas: Sequence[Path],
    *,
    contig_splits: Mapping[str, Sequence[str]] | None = None,
    splits_bed: Path | None = None,
    block: int = BLOCK_BASES,
    shard_size: int = SHARD_BYTES,
) -> tuple[Index, bool]:
    """Build a shard set, or find that it is built already. The index is written last.

    Args:
        out: folder of the set: absent, empty, or begun by an earlier build.
        fastas: the input, at least one file.
        contig_splits: split name -> contig names; the other contigs are ``train``.
        splits_bed: BED file of splits, in place of ``contig_splits``.
        block: bases in a block.
        shard_size: bytes of packed blocks in a shard.

    Returns:
        The index, and whether anything was built.

    Raises:
        UserError: bad input, a folder with other content, or a full device.
    """
    intervals = read_bed(splits_bed) if splits_bed else []
    recipe = _recipe(fastas, contig_splits or {}, splits_bed, block, shard_size)
    with _only_builder(out):
        if (out / INDEX_NAME).exists():
            return _built_before(out, recipe), False
        _prepare(out, recipe)
        reader = ContigReader(fastas, block)
        shards, blocks = write_shards(out, reader.blocks(), shard_size)
        contigs = reader.contigs
        if splits_bed:
            splits = splits_by_interval(splits_bed, intervals, contigs)
        else:
            splits = splits_by_contig(contig_splits or {}, contigs)
        index = Index(f"ldarnet {__version__}", recipe, contigs, splits, blocks, shards)
        _demand_bases(index)
        index.save(out)
        (out / _UNFINISHED_NAME).unlink()
        return index, True


def _recipe(
    fastas: Sequence[Path],
    contig_splits: Mapping[str, Sequence[str]],
    splits_bed: Path | None,
    block: int,
    shard_size: int,
) -> dict[str, Any]:
    """All that decides what a build writes; two builds with equal recipes give the same bytes."""
    if block < 1 or shard_size < 1:
        raise UserError(f"--block {block} --shard-size {shard_size}: both must be at least 1")
    splits = _describe_file(splits_bed) if splits_bed else {name: list(names) for name, names in contig_splits.items()}
    sources = [_describe_file(path) for path in fastas]
    return {"sources": sources, "splits": splits, "block": block, "shard_size": shard_size}


def _describe_file(path: Path) -> dict[str, Any]:
    size = file_size(path)
    with read_errors(path):
        return {"name": path.name, "size": size, "sha256": sha256_file(path)}


def _built_before(out: Path, recipe: dict[str, Any]) -> Index:
    index = Index.load(out)
    if index.recipe != recipe:
        other = ", ".join(key for key in recipe if index.recipe.get(key) != recipe[key])
        raise UserError(f"{out}: holds a set with other {other}; name another --out folder or delete this one")
    for shard in index.shards:
        path = out / shard.name
        if not path.is_file() or path.stat().st_size != shard.size:
            raise UserError(f"{path}: missing or of another size; delete {out} and build it again")
    return index


@contextmanager
def _only_builder(out: Path) -> Iterator[None]:
    """Make the folder and hold a lock on it; a killed builder leaves no lock behind."""
    try:
        with space_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"{out}: cannot be used as a folder ({error.strerror}); name another --out") from None
    try:
        _lock(out, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(out: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{out}: another build is writing here; wait for it or name another --out") from None
    except OSError:
        # Some network file systems have no locks; then two builds on one folder are the user's to avoid.
        return


def _prepare(out: Path, recipe: dict[str, Any]) -> None:
    """Mark the folder as ours, and clear what an unfinished build left in it."""
    if (out / _UNFINISHED_NAME).exists():
        for leftover in (*out.glob(SHARD_PATTERN), *out.glob(f".*{PARTIAL_SUFFIX}")):
            leftover.unlink()
    elif any(out.iterdir()):
        raise UserError(f"{out}: holds other files; name an empty or a new --out folder")
    write_json_atomic(out / _UNFINISHED_NAME, recipe)


def _demand_bases(index: Index) -> None:
    """Refuse a split in which there is nothing to learn from."""
    for split, rows in index.splits.items():
        bases, other = _count(index, rows)
        if bases == other:
            raise UserError(f"split {split!r}: it holds no A, C, G or T, so no window is left; give it other contigs")


def _count(index: Index, rows: np.ndarray) -> tuple[int, int]:
    """Letters in the intervals of a split, and how many of them are none of A, C, G, T."""
    clipped = [np.clip(index.contigs[contig].n_runs, start, stop) for contig, start, stop in rows.tolist()]
    return int((rows[:, 2] - rows[:, 1]).sum()), sum(int((runs[:, 1] - runs[:, 0]).sum()) for runs in clipped)


def _table(index: Index) -> Table:
    table = Table(*("split", "contigs", "bases", "N and other letters"), title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for split, rows in index.splits.items():
        bases, other = _count(index, rows)
        table.add_row(split, f"{len(np.unique(rows[:, 0])):,}", f"{bases:,}", f"{other:,}")
    return table


def _summary(out: Path, index: Index, built: bool) -> str:
    bases = sum(contig.length for contig in index.contigs)
    size = sum(shard.size for shard in index.shards) + (out / INDEX_NAME).stat().st_size
    counted = ((len(index.contigs), "contig"), (bases, "base"), (len(index.shards), "shard"))
    counts = (f"{number:,} {noun}{'' if number == 1 else 's'}" for number, noun in counted)
    return (
        f"{'built' if built else 'already built'}: {out}: {', '.join(counts)}, "
        f"{8 * size / bases:.3f} bits per base, fingerprint {index.fingerprint[:12]}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sharding.build", description="Turn FASTA files into a shard set.")
    parser.add_argument(
        "fasta", nargs="*", type=Path, help="FASTA files, plain or compressed; none: the bundled yeast genome"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the shard set")
    splits = parser.add_mutually_exclusive_group()
    splits.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=CONTIG,...",
        help="contigs of a split (repeatable); all others are train",
    )
    splits.add_argument("--splits-bed", type=Path, metavar="FILE", help="intervals: contig, start, end, split")
    parser.add_argument("--block", type=int, default=BLOCK_BASES, help="bases in a block (%(default)s)")
    parser.add_argument("--shard-size", type=int, default=SHARD_BYTES, help="bytes in a shard (%(default)s)")
    options = parser.parse_args(arguments)
    contig_splits = parse_contig_splits(options.split)
    console = Console()
    if not options.fasta:
        console.print("no FASTA was named: taking the yeast chromosomes that come with LDARNet", soft_wrap=True)
        if not options.splits_bed and not contig_splits:
            contig_splits = BUNDLED_SPLITS
    index, built = build(
        options.out,
        options.fasta or [BUNDLED_FASTA],
        contig_splits=contig_splits,
        splits_bed=options.splits_bed,
        block=options.block,
        shard_size=options.shard_size,
    )
    console.print(_table(index))
    console.print(_summary(options.out, index, built), soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    run(main)
