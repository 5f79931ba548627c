"""Random access to the bases of a genome."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict

from ldarnet.errors import UserError
from ldarnet.genomics.genome import Genome, GenomeRecord
from ldarnet.io.files import space_errors


class SequenceStore:
    """The bases of a genome in a temporary file, one byte per base; the file is removed when it is closed.

    As `content`, the contigs follow each other, each with a newline at its end; `index` is its FASTA index. Positions
    of a contig outside its records are N.

    Attributes:
        sizes: contig -> length.
    """

    def __init__(self, genome: Genome) -> None:
        """Copy all records.

        Raises:
            UserError: the genome changed after its contigs were read, or the disk is full.
        """
        self.sizes = genome.sizes
        self._records = defaultdict[str, list[tuple[GenomeRecord, int]]](list)
        records = {record.number: record for record in genome.records}
        self._file = tempfile.TemporaryFile(prefix="ldarnet-browse-")  # noqa: SIM115
        offset = 0
        with space_errors(genome.path):
            for number, sequence in genome.sequences(records):
                if len(sequence) != records[number].length:
                    raise UserError(f"{genome.path}: changed while it was read; run the same command again")
                self._records[records[number].contig].append((records[number], offset))
                offset += self._file.write(sequence)
            self._file.flush()
        self._starts, first = dict[str, int](), 0
        for contig, size in self.sizes.items():
            self._starts[contig] = first
            first += size + 1
        self.length = first

    def read(self, contig: str, start: int, end: int) -> bytes:
        """Read bases; positions outside the records of the contig are N."""
        found = bytearray(b"N" * (end - start))
        for record, offset in self._records[contig]:
            first, last = max(start, record.start), min(end, record.end)
            if first < last:
                part = os.pread(self._file.fileno(), last - first, offset + first - record.start)
                found[first - start : last - start] = part
        return bytes(found)

    def record_at(self, contig: str, position: int) -> GenomeRecord | None:
        """Record that contains a position; None if there is none."""
        records = (record for record, _ in self._records.get(contig, ()))
        return next((record for record in records if record.start <= position < record.end), None)

    def index(self) -> str:
        """FASTA index of `content`: name, length, offset, bases per line and bytes per line."""
        return "".join(
            f"{contig}\t{size}\t{self._starts[contig]}\t{size}\t{size + 1}\n" for contig, size in self.sizes.items()
        )

    def content(self, first: int, length: int) -> bytes:
        """Read bytes of all contigs with their newlines."""
        parts = []
        for contig, size in self.sizes.items():
            start, end = (min(max(at - self._starts[contig], 0), size + 1) for at in (first, first + length))
            if start < end:
                parts.append(self.read(contig, start, min(end, size)) + b"\n" * (end > size))
        return b"".join(parts)
