"""Sequences cut from a reference by coordinates: a table for each class, of id, region, start, end and strand.

Places are counted from 0, the end is excluded; on strand ``-`` the reverse complement is meant, and a strand that is
left blank is ``+`` (datasets/README.md of Genomic Benchmarks).
"""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.genome.fasta import read_contigs
from ldarnet.io.files import sha256_file
from ldarnet.tasks.formats import FASTA_SUFFIXES, Records, open_text
from ldarnet.tasks.registry import Assembly, Task

REFERENCES = "references"
_COLUMNS = {"id", "region", "start", "end", "strand"}
_COMPLEMENT = str.maketrans("ACGTNacgtn", "TGCANtgcan")
_ADDED_TO_NAME = re.compile(r"^chr|(?<=\d)\.\d+$")  # chr20 is 20, ENST00000371014.3 is ENST00000371014


@dataclass(slots=True)
class _Row:
    kind: str
    name: str
    region: str
    start: int
    end: int
    strand: str
    place: str
    sequence: str | None = None


def read_coordinates(task: Task, place: Path, folder: Path) -> tuple[dict[str, Records], list[str]]:
    """Cut the sequences of a task.

    Args:
        task: the task; it knows the assembly that the coordinates of each class are counted on.
        place: the folder with ``train/<class>.csv.gz`` and ``test/<class>.csv.gz``.
        folder: the folder in whose subfolder ``references`` the FASTA files lie; or in itself.

    Returns:
        The splits, classes and names in order, and notes.

    Raises:
        UserError: a table or a FASTA file is missing or damaged, or the FASTA file is of another assembly, where
            the registry has lengths to tell.
    """
    notes, splits = [], dict[str, list[_Row]]()
    for split in ("train", "test"):
        splits[split] = []
        for kind in task.classes:
            table = _table(task, place, split, kind)
            name = table.relative_to(place).as_posix()
            if sha256_file(table) != task.coordinates_sha256.get(name):
                notes.append(f"{name} is not byte for byte as its publisher had it when the registry was written")
            splits[split] += sorted(_read_rows(table, kind, name), key=lambda row: row.name)
    rows_of: dict[str, list[_Row]] = defaultdict(list)
    for row in (row for rows in splits.values() for row in rows):
        rows_of[task.assemblies[row.kind].name].append(row)
    for assembly in {assembly.name: assembly for assembly in task.assemblies.values()}.values():
        reference = _find_reference(assembly, place, folder)
        _cut(assembly, reference, rows_of[assembly.name], place)
        notes.append(f"the sequences of {assembly.name} are cut from {reference.name}")
        if not assembly.contigs:
            notes.append(
                f"{reference.name} is not checked: the coordinates are counted on {assembly.url}, and of another "
                "release the same places may hold other sequences"
            )
    return {split: _records(place, rows) for split, rows in splits.items()}, notes


def _records(place: Path, rows: list[_Row]) -> Records:
    names = [f"{row.kind}/{row.name}" for row in rows]
    sequences = [row.sequence or "" for row in rows]
    return Records(place, "", [row.place for row in rows], names, sequences, [row.kind for row in rows])


def _table(task: Task, place: Path, split: str, kind: str) -> Path:
    for name in (f"{kind}.csv.gz", f"{kind}.csv"):
        if (place / split / name).is_file():
            return place / split / name
    raise UserError(f"{place / split / kind}.csv.gz: no such file; {task.key} needs the coordinates of every class")


def _read_rows(table: Path, kind: str, name: str) -> list[_Row]:
    rows = []
    with open_text(table) as file:
        reader = csv.DictReader(file)
        if missing := sorted(_COLUMNS - set(reader.fieldnames or ())):
            raise UserError(f"{table}: line 1: no column {missing[0]!r}; a table of coordinates has {sorted(_COLUMNS)}")
        for row in reader:
            try:
                start, end = int(row["start"]), int(row["end"])
            except (TypeError, ValueError):
                raise UserError(f"{table}: line {reader.line_num}: start and end must be integers; mend it") from None
            if not 0 <= start < end:
                raise UserError(f"{table}: line {reader.line_num}: {start} to {end} is no interval; mend it")
            place = f"{name} line {reader.line_num}"
            rows.append(_Row(kind, row["id"], row["region"], start, end, row["strand"], place))
    return rows


def _find_reference(assembly: Assembly, place: Path, folder: Path) -> Path:
    names = [name.lower() for name in (assembly.name, *assembly.also)]
    there = []
    for home in (folder / REFERENCES, place / REFERENCES, folder, place):
        for path in sorted(home.glob("*")):
            stem = path.name.lower().removesuffix(".gz")
            if stem.endswith(FASTA_SUFFIXES):
                there.append(path.name)
                # The transcripts of an assembly are no chromosomes of it, though their file has its name.
                if any(name in stem for name in names) and (".cdna" in stem) == assembly.name.endswith(".cdna"):
                    return path
    seen = f" (there is {', '.join(there[:5])})" if there else ""
    raise UserError(
        f"{folder / REFERENCES}: no FASTA file of {assembly.name}, which the coordinates are counted on{seen}; put "
        f"{assembly.url} there, or take the publisher's sequences: data.folder=null"
    )


def _plain(contig: str) -> str:
    return _ADDED_TO_NAME.sub("", contig)


def _cut(assembly: Assembly, reference: Path, rows: list[_Row], place: Path) -> None:
    wanted: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        wanted[_plain(row.region)].append(row)
    for name, bases in read_contigs(reference):
        contig = _plain(name)
        expected = assembly.contigs.get(contig)
        if expected not in (None, len(bases)):
            raise UserError(
                f"{reference}: contig {contig} has {len(bases):,} bases, but {expected:,} in {assembly.name}, which "
                f"the coordinates are counted on: a file of another assembly; put {assembly.url} in its place"
            )
        for row in wanted.pop(contig, ()):
            if row.end > len(bases):
                where = f"{place}: {row.place}: {row.region}:{row.start}-{row.end}"
                raise UserError(f"{where} lies beyond the end of {contig} in {reference.name}; take the right assembly")
            piece = bases[row.start : row.end]
            row.sequence = piece.translate(_COMPLEMENT)[::-1] if row.strand == "-" else piece
    if wanted:
        count, first = sum(map(len, wanted.values())), next(iter(wanted.values()))[0]
        raise UserError(
            f"{reference}: no contig {first.region}, and so nothing for {count:,} of {len(rows):,} rows (the first: "
            f"{place}: {first.place}); name the whole assembly {assembly.name}"
        )
