"""Sequences to embed: FASTA and .2bit files, regions of a genome, and tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.extras import optional_imports
from ldarnet.genome.fasta import read_contigs, read_fasta
from ldarnet.genome.iupac import IUPAC_CODES
from ldarnet.genome.sources import Header
from ldarnet.genomics.genome import Genome, GenomeRecord
from ldarnet.genomics.regions import GenomeRegion, locate
from ldarnet.io.tsv import UniqueNames
from ldarnet.tasks.damage import damage_errors
from ldarnet.tasks.rows import NAME_COLUMNS, SEQUENCE_COLUMNS
from ldarnet.tasks.tables import SEPARATORS, read_rows

_ALLOWED = str.maketrans("", "", (IUPAC_CODES + IUPAC_CODES.lower()).decode("ascii"))
_PARQUET = ".parquet"
_BATCH_ROWS = 2**10


@dataclass(frozen=True, slots=True)
class Source:
    """Regions to embed, and the sequences that contain them.

    Attributes:
        regions: the regions, in the order of the input.
        records: returns an iterator over the records that contain regions, with their token ids, (L,), and the indices
            of their regions.
    """

    regions: Sequence[GenomeRegion]
    records: Callable[[], Iterator[tuple[GenomeRecord, np.ndarray, list[int]]]]

    @property
    def bases(self) -> int:
        """Number of bases in all regions."""
        return sum(region.end - region.start for region in self.regions)


def genome_source(genome: Genome, regions: Sequence[str] = (), bed: Path | None = None) -> Source:
    """Regions of a genome; without regions and BED file, its records.

    Raises:
        UserError: see `ldarnet.genomics.regions.select`.
    """
    records = {record.number: record for record in genome.records}
    if regions or bed is not None:
        found = list(locate(genome, regions, bed))
    else:
        found = [GenomeRegion(r.contig, r.contig, r.start, r.end, number) for number, r in sorted(records.items())]
    of_record: dict[int, list[int]] = defaultdict(list)
    for index, region in enumerate(found):
        of_record[region.record].append(index)

    def sequences() -> Iterator[tuple[GenomeRecord, np.ndarray, list[int]]]:
        for number, sequence in genome.sequences(of_record):
            yield records[number], _checked(genome.path, alphabet.encode(sequence), records[number]), of_record[number]

    return Source(found, sequences)


def sequence_source(path: Path) -> Source:
    """Each sequence of a FASTA file, a .2bit file or a table as a region of its own.

    A table has the suffix .csv, .tsv or .tab, plain or compressed, or .parquet. It has a column with sequences and may
    have one with names; `ldarnet.tasks.rows` lists their titles. Repeated names get a suffix.

    Raises:
        UserError: the file cannot be read, or a row has no sequence, or a character that is not a nucleotide code.
        ModuleNotFoundError: the file is Parquet, and pyarrow is not installed.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else suffixes[-1] if suffixes else ""
    if suffix in SEPARATORS or suffix == _PARQUET:
        rows: Callable[[], Iterator[tuple[str, str]]] = lambda: _table(path, suffix)  # noqa: E731
        lengths = ((name, len(sequence)) for name, sequence in rows())
    else:
        rows, lengths = (lambda: read_contigs(path)), _fasta_lengths(path)
    names, regions = UniqueNames(), list[GenomeRegion]()
    for number, (given, length) in enumerate(lengths):
        name = names.add(given, f"sequence:{number + 1}")
        regions.append(GenomeRegion(name, name, 0, length, number))
    if not regions:
        raise UserError(f"{path}: no sequences; choose a file with at least one sequence")

    def records() -> Iterator[tuple[GenomeRecord, np.ndarray, list[int]]]:
        number = -1
        for number, (_, sequence) in enumerate(rows()):
            if number == len(regions):
                break
            record = GenomeRecord(number, regions[number].contig, 0, regions[number].end, "")
            yield record, _checked(path, alphabet.encode(sequence), record), [number]
        if number != len(regions) - 1:
            raise UserError(_changed(path))

    return Source(regions, records)


def _checked(path: Path, ids: np.ndarray, record: GenomeRecord) -> np.ndarray:
    if len(ids) != record.length:
        raise UserError(_changed(path))
    return ids


def _changed(path: Path) -> str:
    return f"{path}: changed while it was read; run the same command again"


def _fasta_lengths(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the length of each record."""
    name, length = None, 0
    for item in read_fasta(path):
        if not isinstance(item, Header):
            length += len(item)
            continue
        if name is not None:
            yield name, length
        name, length = item.name, 0
    assert name is not None
    yield name, length


def _table(path: Path, suffix: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the sequence of each row of a table; the name is empty if there is none."""
    if suffix == _PARQUET:
        rows, unit = _parquet_rows(path), "row"
    else:
        rows, unit = _text_rows(path, SEPARATORS[suffix]), "line"
    for number, name, sequence in rows:
        if not sequence:
            raise UserError(f"{path}: {unit} {number}: no sequence; remove the {unit}")
        if wrong := sequence.translate(_ALLOWED):
            raise UserError(f"{path}: {unit} {number}: {wrong[0]!r} is not a nucleotide code; remove it or write N")
        yield name, sequence


def _text_rows(path: Path, separator: str) -> Iterator[tuple[int, str, str]]:
    rows = read_rows(path, separator)
    sequence, name = _columns(f"{path}: line 1", next(rows, (1, []))[1])
    for line, cells in rows:
        yield line, "" if name is None else cells[name], cells[sequence].strip()


def _parquet_rows(path: Path) -> Iterator[tuple[int, str, str]]:
    with optional_imports("ldarnet embed"):
        import pyarrow
        from pyarrow import parquet

    number = 0
    with damage_errors(path, "not Parquet", pyarrow.ArrowException), parquet.ParquetFile(path) as file:
        titles = file.schema_arrow.names
        sequence, name = _columns(str(path), titles)
        used = [titles[column] for column in (sequence, name) if column is not None]
        for batch in file.iter_batches(_BATCH_ROWS, columns=used):
            columns = [batch.column(title).to_pylist() for title in used]
            for cells in zip(*columns, strict=True):
                number += 1
                texts = ["" if cell is None else str(cell) for cell in cells]
                yield number, texts[1] if name is not None else "", texts[0].strip()


def _columns(where: str, header: Sequence[str]) -> tuple[int, int | None]:
    """Indices of the columns with sequences and names; the second is None if there is no such column."""
    titles = [title.strip().lower() for title in header]

    def find(known: Sequence[str]) -> int | None:
        return next((titles.index(title) for title in known if title in titles), None)

    if (sequence := find(SEQUENCE_COLUMNS)) is None:
        raise UserError(f"{where}: no column with sequences; name it {SEQUENCE_COLUMNS[0]!r}")
    return sequence, find(NAME_COLUMNS)
