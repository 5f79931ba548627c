"""Tracks of a model along a genome, as files for genome browsers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics import writers
from ldarnet.genomics.boundaries import Strands
from ldarnet.genomics.genome import Genome, GenomeRecord
from ldarnet.genomics.partial import PartialScores
from ldarnet.genomics.regions import Intervals, Selection
from ldarnet.genomics.scoring import WindowInput, WindowScorer, WindowScores
from ldarnet.genomics.stitching import ChunkTable, StitchedPiece, assemble_chunks, stitched, with_following_base
from ldarnet.genomics.windows import WindowGrid
from ldarnet.io.files import make_folder, space_errors, sync_path, write_json_atomic
from ldarnet.io.lock import acquire
from ldarnet.io.names import FileName
from ldarnet.io.records import Count, Sha256, read_record

SIGNAL_FORMATS = {"bigwig": (".bw", writers.write_bigwig), "bedgraph": (".bedgraph", writers.write_bedgraph)}
"""Format of signals -> suffix and writer."""
CHUNK_FORMATS = {"bed": (".bed", writers.write_bed), "bigbed": (".bb", writers.write_bigbed)}
"""Format of chunks -> suffix and writer."""
INDEXED = ("bigwig", "bigbed")
"""Formats that need pybigtools."""
Advance = Callable[[str, int, bool], None]
"""Progress callback: contig, number of bases, and whether an earlier run computed them."""
RECORD = "tracks.json"
"""Description of the tracks in a folder; written last."""
PARTIAL = ".partial"
"""Hidden folder with the results of an unfinished run."""


@dataclass(frozen=True, slots=True)
class TrackRecord:
    """Content of `RECORD`.

    Attributes:
        key: hash of model, genome, regions and settings.
        ldarnet: version of this package.
        model: path of the model.
        genome: path of the genome.
        window: window length in bases.
        margin: margin in bases.
        strands: see `ldarnet.genomics.boundaries.Strands`.
        masked_every: distance of masked bases in bases; None without likelihoods.
        bases: number of bases in the regions.
        files: names of the files.
    """

    key: Sha256
    ldarnet: str
    model: str
    genome: str
    window: Count
    margin: Count
    strands: Strands
    masked_every: Count | None
    bases: Count
    files: list[FileName]


class CombinedScorer:
    """Several scorers as one."""

    def __init__(self, scorers: Sequence[WindowScorer]) -> None:
        self._scorers = scorers
        self.signals = tuple(name for scorer in scorers for name in scorer.signals)
        self.chunks = {name: signal for scorer in scorers for name, signal in scorer.chunks.items()}

    def __call__(self, windows: Sequence[WindowInput]) -> list[WindowScores]:
        """Score a batch of windows with all scorers."""
        found = [scorer(windows) for scorer in self._scorers]
        return [
            WindowScores(
                {name: values for scores in row for name, values in scores.signals.items()},
                {name: starts for scores in row for name, starts in scores.starts.items()},
            )
            for row in zip(*found, strict=True)
        ]


class Tracks:
    """Computes the tracks of a selection and writes them to a folder.

    Args:
        genome: the genome.
        selection: its regions.
        scorer: model that scores windows.
        grid: windows.
        batch: windows per forward pass.
        formats: names in `SIGNAL_FORMATS` and `CHUNK_FORMATS`.
        out: folder to write.
        key: hash of model and settings.
    """

    def __init__(
        self,
        genome: Genome,
        selection: Selection,
        scorer: WindowScorer,
        grid: WindowGrid,
        *,
        batch: int,
        formats: Sequence[str],
        out: Path,
        key: str,
    ) -> None:
        self._genome, self._scorer, self._grid, self._batch, self._out = genome, scorer, grid, batch, out
        self._selection, self._formats = selection, formats
        self._records = [record for record in genome.records if record.number in selection]
        self._extended = {r.number: with_following_base(r, selection[r.number]) for r in self._records}
        parts = [(asdict(record), selection[record.number].tolist()) for record in self._records]
        text = json.dumps([key, asdict(grid), scorer.signals, genome.sizes, parts], sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()

    @property
    def files(self) -> list[str]:
        """Names of the files."""
        return [
            f"{name}{table[form][0]}"
            for names, table in ((self._scorer.signals, SIGNAL_FORMATS), (self._scorer.chunks, CHUNK_FORMATS))
            for name in names
            for form in self._formats
            if form in table
        ]

    def write(
        self,
        record: Callable[[str, list[str]], TrackRecord],
        advance: Advance,
        log: Callable[[str], None],
    ) -> bool:
        """Compute the tracks that are missing, and write all files.

        Args:
            record: builds the record of the folder from the key and the names of the files.
            advance: progress callback.
            log: called with messages for the user.

        Returns:
            False if the folder already has these tracks.

        Raises:
            UserError: another process writes the folder, or the disk is full.
        """
        out = make_folder(self._out)
        with acquire(out, f"{out}: another process writes this folder; wait for it or choose another folder"):
            previous = read_track_record(out)
            if previous is not None and previous.key == self.key and self._complete(previous):
                return False
            partial = PartialScores(out / PARTIAL, self.key, self._scorer.signals, self._scorer.chunks)
            if partial.discarded:
                log(f"{out}: discarded the unfinished tracks of another model, genome or configuration")
            self._compute(partial, advance)
            staged = self._write_files(partial)
            kept = previous.files if previous is not None and previous.key == self.key else []
            if previous is not None and previous.key != self.key:
                log(f"{out}: replaced the tracks of another model, genome or configuration")
                for name in (RECORD, *previous.files):  # the record first: it never describes other files
                    (out / name).unlink(missing_ok=True)
            for name in self.files:
                (staged / name).replace(out / name)
            write_json_atomic(out / RECORD, asdict(record(self.key, sorted({*kept, *self.files}))), indent=2)
            partial.remove()
        return True

    def _complete(self, record: TrackRecord) -> bool:
        return {*self.files} <= {*record.files} and all((self._out / name).is_file() for name in record.files)

    def _compute(self, partial: PartialScores, advance: Advance) -> None:
        contigs = {record.number: record for record in self._records}
        pending = set[int]()
        for record in self._records:
            if partial.has(record.number, self._extended[record.number]):
                advance(record.contig, _bases(self._selection[record.number]), True)
            else:
                pending.add(record.number)
        for number, sequence in self._genome.sequences(pending):
            ids = alphabet.encode(sequence)
            del sequence
            record, intervals = contigs[number], self._extended[number]
            if len(ids) != record.length:
                raise UserError(f"{self._genome.path}: changed while it was read; run the same command again")

            pieces = stitched(record, ids, intervals, self._grid, self._scorer, self._batch)
            partial.write(number, self._reported(pieces, record, advance))

    def _reported(
        self, pieces: Iterable[StitchedPiece], record: GenomeRecord, advance: Advance
    ) -> Iterator[StitchedPiece]:
        """Report progress for each piece; the bases that follow the selection do not count."""
        ends = self._selection[record.number][:, 1].tolist()
        for piece in pieces:
            yield piece
            length = len(next(iter(piece.signals.values())))
            advance(record.contig, min(length, ends[piece.interval] - piece.start), False)

    def _write_files(self, partial: PartialScores) -> Path:
        """Write all files to a folder inside the hidden folder; return this folder."""
        staged = make_folder(partial.folder / "files")
        with space_errors(self._out):
            for form in self._formats:
                if form in SIGNAL_FORMATS:
                    suffix, write_signal = SIGNAL_FORMATS[form]
                    for name in self._scorer.signals:
                        write_signal(staged / f"{name}{suffix}", self._genome.sizes, self._values(partial, name))
                else:
                    suffix, write_chunks = CHUNK_FORMATS[form]
                    for name, signal in self._scorer.chunks.items():
                        sign = next((sign for end, sign in writers.STRAND_SIGNS.items() if name.endswith(end)), ".")
                        chunks = self._chunks(partial, signal, name)
                        write_chunks(staged / f"{name}{suffix}", self._genome.sizes, chunks, sign)
            for name in self.files:
                sync_path(staged / name)
        return staged

    def _values(self, partial: PartialScores, name: str) -> Iterator[tuple[str, int, np.ndarray]]:
        for record in self._records:
            ends = self._selection[record.number][:, 1].tolist()
            for index, blocks in partial.read(record.number, self._extended[record.number], (name,)):
                for position, (values,) in blocks:
                    if len(inside := values[: ends[index] - position]):
                        yield record.contig, position, inside

    def _chunks(self, partial: PartialScores, signal: str, name: str) -> Iterator[tuple[str, ChunkTable]]:
        for record in self._records:
            extended = self._extended[record.number]
            selected = self._selection[record.number]
            for index, blocks in partial.read(record.number, extended, (signal, name)):
                pieces = ((position, p, breaks) for position, (p, breaks) in blocks)
                end = int(extended[index, 1])
                for table in assemble_chunks(pieces, end, complete=end == selected[index, 1]):
                    yield record.contig, table


def parse_formats(text: str) -> list[str]:
    """Parse a comma-separated list of formats.

    Raises:
        UserError: a format is unknown.
    """
    known = (*SIGNAL_FORMATS, *CHUNK_FORMATS)
    names = list(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in names:
        if name not in known:
            raise UserError(f"--format {name!r}: unknown format; choose from {', '.join(known)}")
    return names


def model_hash(model: Any) -> str:
    """SHA-256 of the configuration and the weights of a model."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _bases(intervals: Intervals) -> int:
    return int((intervals[:, 1] - intervals[:, 0]).sum())


def read_track_record(folder: Path) -> TrackRecord | None:
    """Read the record of a folder of tracks; None if there is none.

    Raises:
        UserError: the record is malformed.
    """
    file = folder / RECORD
    if not file.is_file():
        return None
    return read_record(file, TrackRecord, hint="remove it and run the same command again")
