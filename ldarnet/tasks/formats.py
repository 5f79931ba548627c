"""Read labeled sequences from csv, tsv and FASTA files, plain or compressed, and from Parquet files.

Only the file format is checked here; `ldarnet.tasks.labels` validates sequences and labels.
"""

from pathlib import Path

from ldarnet.errors import UserError
from ldarnet.genome.fasta import Header, parse_fasta
from ldarnet.genome.sources import RawFile, text_pieces
from ldarnet.io.files import file_size
from ldarnet.tasks.parquet import read_parquet
from ldarnet.tasks.rows import AUTO, Columns, Records, bounded, check_length, check_rows
from ldarnet.tasks.tables import SEPARATORS, read_table

FASTA_SUFFIXES = (".fna", ".fa", ".fasta")
TABLE_SUFFIXES = tuple(SEPARATORS)
PARQUET_SUFFIX = ".parquet"


def file_format(path: Path) -> str:
    """Suffix of the file format, in lower case and without `.gz`.

    Raises:
        UserError: the suffix is unknown, or the file is gzipped Parquet.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] == ".gz" else suffixes[-1] if suffixes else ""
    known = (*TABLE_SUFFIXES, *FASTA_SUFFIXES, PARQUET_SUFFIX)
    if suffix not in known:
        raise UserError(
            f"{path}: unknown file format; use one of {', '.join(known)} (all but {PARQUET_SUFFIX} may end in .gz)"
        )
    if suffix == PARQUET_SUFFIX and suffixes[-1] == ".gz":
        raise UserError(
            f"{path}: gzipped Parquet is not supported, as Parquet has its own compression; unpack it with gunzip"
        )
    return suffix


def read_records(path: Path, columns: Columns = AUTO) -> Records:
    """Read a file of labeled sequences. Its suffix determines the format; its content determines the compression.

    Tables start with a line of column names. FASTA headers end with `|` and the label: `>name|1`.

    Raises:
        UserError: the file is missing, empty, damaged or malformed, or exceeds a limit of `ldarnet.tasks.rows`.
    """
    suffix = file_format(path)
    if not file_size(path):
        raise UserError(f"{path}: empty file; choose a file with labeled sequences")
    if suffix in TABLE_SUFFIXES:
        records = read_table(path, SEPARATORS[suffix], columns)
    elif suffix == PARQUET_SUFFIX:
        records = read_parquet(path, columns)
    else:
        records = _read_labeled_fasta(path)
    if not len(records):
        raise UserError(f"{path}: no sequences; choose a file with labeled sequences")
    return records


def _read_labeled_fasta(path: Path) -> Records:
    """Read FASTA with headers `name|label`. The label follows the last `|`."""
    locations: list[int | str] = []
    names, sequences, labels = list[str](), list[str](), list[str]()
    parts = list[bytes]()
    length = 0
    with RawFile(str(path)) as raw:
        for item in parse_fasta(str(path), bounded(path, text_pieces(raw))):
            if not isinstance(item, Header):
                length += len(item)
                check_length(f"{path}: line {locations[-1]}", length, "sequence")
                parts.append(item)
                continue
            if locations:
                sequences.append(b"".join(parts).decode("ascii"))
            name, bar, label = item.text.rpartition("|")
            if not bar:
                raise UserError(
                    f"{path}: line {item.line}: the header {item.text[:60]!r} has no label; write it as >name|label"
                )
            locations.append(item.line)
            check_rows(path, len(locations))
            names.append(name)
            labels.append(label)
            parts, length = [], 0
    sequences.append(b"".join(parts).decode("ascii"))
    return Records(path, "line", locations, names, sequences, labels)
