"""Genomes as a list of records with coordinates: the names and lengths first, then the sequences, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genome.contig_names import place_of
from ldarnet.genome.fasta import read_fasta
from ldarnet.genome.sources import Header
from ldarnet.printable import printable


@dataclass(frozen=True, slots=True)
class GenomeRecord:
    """A sequence of the file and its place on a contig.

    Attributes:
        number: index in the file.
        contig: name of the contig.
        start: position of the first base on the contig, 0-based.
        end: position after the last base.
        sha256: hash of the token ids.
    """

    number: int
    contig: str
    start: int
    end: int
    sha256: str

    @property
    def length(self) -> int:
        """Number of bases."""
        return self.end - self.start


class Genome:
    """A FASTA or .2bit file.

    A record is a whole contig, or the part of one that its name states: ``chr7:1000001-1020000``, as `samtools faidx`
    writes it, is 20,000 bases of chr7 from position 1,000,000 (0-based) on, provided that it has this length.

    Attributes:
        path: path of the file.
        records: records in the order of their contigs (alphabetical) and positions.
        sizes: contig -> length; for a contig with parts only, the end of the last one.
    """

    def __init__(self, path: Path, rename: Mapping[str, str] | None = None) -> None:
        """Read the names, lengths and hashes of all records.

        Args:
            path: path of the file, plain or compressed.
            rename: name in the file -> name to use instead.

        Raises:
            UserError: the file cannot be read (see `ldarnet.genome.fasta.read_fasta`), two records have the same name
                or overlap, or no name in ``rename`` is in the file.
        """
        self.path = path
        rename, records, found = rename or {}, list[GenomeRecord](), False
        for number, (header, length, digest) in enumerate(_summaries(path)):
            contig, start = (header.name, 0) if header.name in rename else place_of(header.name, length)
            found |= contig in rename
            records.append(GenomeRecord(number, rename.get(contig, contig), start, start + length, digest))
        if rename and not found:
            raise UserError(
                f"{path}: no contig is named {printable(next(iter(rename)))} or another name in column 1 of --rename; "
                "write the name in this file, a tab, and the new name"
            )
        self.records = sorted(records, key=lambda record: (record.contig, record.start))
        for record, following in zip(self.records, self.records[1:], strict=False):
            if record.contig == following.contig and following.start < record.end:
                raise UserError(
                    f"{path}: two records cover {printable(record.contig)}:{following.start + 1:,}; rename or remove "
                    "one of them"
                )
        self.sizes: dict[str, int] = {record.contig: record.end for record in self.records}

    def sequences(self, numbers: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """Yield the numbers and the sequences of records in the order of the file, one at a time."""
        last, number, parts = max(numbers, default=-1), -1, list[bytes]()
        for item in read_fasta(self.path):
            if not isinstance(item, Header):
                if number in numbers:
                    parts.append(item)
                continue
            if parts:
                yield number, _joined(parts)
            number += 1
            if number > last:
                return
        if parts:
            yield number, _joined(parts)


def _joined(parts: list[bytes]) -> bytes:
    """Join and remove the parts; the caller holds the only copy of the sequence."""
    sequence = b"".join(parts)
    parts.clear()
    return sequence


def has_bases(ids: np.ndarray) -> bool:
    """Whether token ids contain A, C, G or T."""
    return bool((ids < alphabet.N).any())


def _summaries(path: Path) -> Iterator[tuple[Header, int, str]]:
    """Yield the header, the length and the hash of the token ids of each record."""
    header, length, digest = None, 0, hashlib.sha256()
    for item in read_fasta(path):
        if not isinstance(item, Header):
            length += len(item)
            digest.update(alphabet.encode(item).data)
            continue
        if header is not None:
            yield header, length, digest.hexdigest()
        header, length, digest = item, 0, hashlib.sha256()
    assert header is not None
    yield header, length, digest.hexdigest()
