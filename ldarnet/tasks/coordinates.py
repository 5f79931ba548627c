"""Extract sequences from a reference assembly, given tables of coordinates.

Each class has one table per split, with the columns id, region, start, end and strand. Coordinates are 0-based and
half-open, as in BED. Strand `-` means the reverse complement; an empty strand means `+`. The repository of
Genomic Benchmarks describes this format in datasets/README.md.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.genome.fasta import read_contigs
from ldarnet.io.files import sha256_file
from ldarnet.tasks.formats import FASTA_SUFFIXES
from ldarnet.tasks.registry import ReferenceAssembly, Task
from ldarnet.tasks.rows import Records
from ldarnet.tasks.tables import read_rows

REFERENCES = "references"
_COLUMNS = ("id", "region", "start", "end", "strand")
_STRANDS = ("+", "-", "")
_COMPLEMENT = str.maketrans("ACGTNacgtn", "TGCANtgcan")
_CONTIG_AFFIXES = re.compile(r"^chr|(?<=\d)\.\d+$")  # chr20 -> 20, ENST00000371014.3 -> ENST00000371014


@dataclass(slots=True)
class _Interval:
    kind: str
    name: str
    region: str
    start: int
    end: int
    strand: str
    location: str
    sequence: str | None = None


def read_coordinates(task: Task, root: Path, folder: Path) -> tuple[dict[str, Records], list[str]]:
    """Extract the sequences of a task from a reference assembly.

    Args:
        task: a task that is published as coordinates.
        root: folder with `train/<class>.csv.gz` and `test/<class>.csv.gz`.
        folder: folder with the FASTA files, which may be in a subfolder `references/`.

    Returns:
        Two items: the rows of each split, sorted by class and name; and notes on the data.

    Raises:
        UserError: a table or a FASTA file is missing or damaged, or the FASTA file does not match the assembly.
    """
    notes, splits = [], dict[str, list[_Interval]]()
    for split in ("train", "test"):
        splits[split] = []
        for kind in task.classes:
            table = _table(task, root, split, kind)
            name = table.relative_to(root).as_posix()
            if sha256_file(table) != task.coordinates_sha256.get(name):
                notes.append(f"{name} differs from the published file: its SHA-256 is not the one in the registry")
            splits[split] += sorted(_read_rows(table, kind, name), key=lambda row: row.name)
    rows_of: dict[str, list[_Interval]] = defaultdict(list)
    for row in (row for rows in splits.values() for row in rows):
        rows_of[task.assemblies[row.kind].name].append(row)
    for assembly in {assembly.name: assembly for assembly in task.assemblies.values()}.values():
        reference = _find_reference(assembly, root, folder)
        _cut(assembly, reference, rows_of[assembly.name], root)
        notes.append(f"{assembly.name} sequences were extracted from {reference.name}")
        if not assembly.contigs:
            notes.append(
                f"{reference.name} could not be verified: the coordinates refer to {assembly.url}, and other releases "
                "may have different sequences at the same coordinates"
            )
    return {split: _records(root, rows) for split, rows in splits.items()}, notes


def _records(root: Path, rows: list[_Interval]) -> Records:
    names = [f"{row.kind}/{row.name}" for row in rows]
    sequences = [row.sequence or "" for row in rows]
    return Records(root, "", [row.location for row in rows], names, sequences, [row.kind for row in rows])


def _table(task: Task, root: Path, split: str, kind: str) -> Path:
    for name in (f"{kind}.csv.gz", f"{kind}.csv"):
        if (root / split / name).is_file():
            return root / split / name
    raise UserError(
        f"{root / split / kind}.csv.gz: no such file; add it, because {task.key} needs the coordinates of every class"
    )


def _read_rows(table: Path, kind: str, name: str) -> list[_Interval]:
    rows = read_rows(table, ",")
    _, header = next(rows, (1, []))
    if missing := sorted(set(_COLUMNS) - set(header)):
        raise UserError(f"{table}: line 1: no column {missing[0]!r}; required columns: {', '.join(sorted(_COLUMNS))}")
    used, intervals = [header.index(column) for column in _COLUMNS], []
    for line, cells in rows:
        row, region, first, last, strand = (cells[column] for column in used)
        try:
            start, end = int(first), int(last)
        except ValueError:
            raise UserError(f"{table}: line {line}: start and end must be integers; fix the line") from None
        if not 0 <= start < end:
            raise UserError(f"{table}: line {line}: {start}-{end} is not a valid interval; fix the line")
        if strand not in _STRANDS:
            raise UserError(f"{table}: line {line}: strand {strand[:20]!r} is not '+', '-' or empty; fix the line")
        intervals.append(_Interval(kind, row, region, start, end, strand, f"{name} line {line}"))
    return intervals


def _find_reference(assembly: ReferenceAssembly, root: Path, folder: Path) -> Path:
    names = [name.lower() for name in (assembly.name, *assembly.also)]
    found = []
    for home in (folder / REFERENCES, root / REFERENCES, folder, root):
        for path in sorted(home.glob("*")):
            stem = path.name.lower().removesuffix(".gz")
            if stem.endswith(FASTA_SUFFIXES):
                found.append(path.name)
                # Names of cDNA files also contain the name of the assembly, but their sequences are transcripts.
                if any(name in stem for name in names) and (".cdna" in stem) == assembly.name.endswith(".cdna"):
                    return path
    present = f" (found only {', '.join(found[:5])})" if found else ""
    raise UserError(
        f"{folder / REFERENCES}: no FASTA file of {assembly.name}, the assembly of the coordinates{present}; download "
        f"{assembly.url} into this folder, or set data.folder=null to download the sequences"
    )


def _plain(contig: str) -> str:
    return _CONTIG_AFFIXES.sub("", contig)


def _cut(assembly: ReferenceAssembly, reference: Path, rows: list[_Interval], root: Path) -> None:
    pending: dict[str, list[_Interval]] = defaultdict(list)
    for row in rows:
        pending[_plain(row.region)].append(row)
    for name, bases in read_contigs(reference):
        contig = _plain(name)
        expected = assembly.contigs.get(contig)
        if expected not in (None, len(bases)):
            raise UserError(
                f"{reference}: contig {contig} has {len(bases):,} bases, but {expected:,} in {assembly.name}, the "
                f"assembly of the coordinates; replace the file with {assembly.url}"
            )
        for row in pending.pop(contig, ()):
            if row.end > len(bases):
                raise UserError(
                    f"{root}: {row.location}: {row.region}:{row.start}-{row.end} extends beyond the end of contig "
                    f"{contig} ({len(bases):,} bases) in {reference.name}; replace the FASTA file with {assembly.url}"
                )
            forward = bases[row.start : row.end]
            row.sequence = forward.translate(_COMPLEMENT)[::-1] if row.strand == "-" else forward
    if pending:
        count, first = sum(map(len, pending.values())), next(iter(pending.values()))[0]
        raise UserError(
            f"{reference}: no contig {first.region}, needed by {count:,} of {len(rows):,} rows (first: {root}: "
            f"{first.location}); use the complete assembly {assembly.name}"
        )
