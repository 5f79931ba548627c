"""`ldarnet tokenize`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ldarnet.cli.arguments import FastaFile, ModelFolder, import_models
from ldarnet.cli.regions import BedFile, RegionNames, RenameFile, open_genome
from ldarnet.cli.sequences import OutFile, base_progress, open_output

if TYPE_CHECKING:
    from ldarnet.genomics.genome import Genome, GenomeRecord
    from ldarnet.genomics.regions import Intervals, Selection

Selected = tuple["GenomeRecord", str, "Intervals"]
"""A record, its sequence, and the intervals to tokenize."""


def tokenize(
    model: ModelFolder,
    fasta: FastaFile,
    out: OutFile = None,
    region: RegionNames = None,
    bed: BedFile = None,
    rename: RenameFile = None,
    stage: Annotated[int, typer.Option(min=0, metavar="N", help="Router stage; 0 has the finest chunks.")] = 0,
    window: Annotated[
        int,
        typer.Option(min=8, metavar="BASES", help="Window length; longer sequences are read in overlapping windows."),
    ] = 4096,
) -> None:
    """Write the chunks of sequences as TSV: sequence name, start, end (0-based, half-open) and bases.

    With --region or --bed, write the chunks that lie within the regions. Windows without A, C, G or T have no chunks.
    If the model reads tokens of several bases, such as k-mers, write these tokens.
    """
    from ldarnet.console import format_count
    from ldarnet.genomics.regions import select, selected_bases
    from ldarnet.io.tsv import UniqueNames, repeated_names, tsv_writer

    network = import_models().load_backbone(model)
    unit = "chunk" if network.config.tokenizer is None else "token"
    split = _splitter(network, stage, window)
    names, found, repeated, total = UniqueNames(), 0, 0, None
    regions = sequences = 0
    if region or bed or rename:
        genome = open_genome(fasta, rename)
        selection = select(genome, region or (), bed)
        total, inputs = selected_bases(selection), _selected(genome, selection)
    else:
        inputs = _all_records(fasta)
    with open_output(out) as file, base_progress("tokenizing", fasta, out, total) as advance:
        write_row = tsv_writer(file)
        for record, sequence, intervals in inputs:
            sequences += 1
            regions += len(intervals)
            name = names.add(record.contig, f"sequence:{sequences}")
            repeated += names.was_repeated
            for start, end in split((record, sequence, intervals)):
                write_row((name, start, end, sequence[start - record.start : end - record.start]))
                found += 1
                advance(end - start)
    notes = repeated_names(repeated)
    if out is not None:
        read = format_count(sequences, "sequence") if total is None else format_count(regions, "region")
        notes = [f"wrote {out}: {read}", format_count(found, unit), *notes]
    if notes:
        print("; ".join(notes), file=sys.stderr)


def _splitter(network: Any, stage: int, window: int) -> Callable[[Selected], Iterator[tuple[int, int]]]:
    """Return a function that yields the start and end of each chunk or token within the intervals of a record."""
    from ldarnet import alphabet
    from ldarnet.errors import UserError

    if network.config.tokenizer is not None:
        if stage:
            raise UserError(f"stage {stage}: this model reads tokens and has no router; use stage 0")
        from ldarnet.interpret.boundaries import token_spans

        def tokens(selected: Selected) -> Iterator[tuple[int, int]]:
            record, sequence, intervals = selected
            for first, last in intervals.tolist():
                part = sequence[first - record.start : last - record.start]
                for start, end in token_spans(network, part, window=window):
                    yield first + start, first + end

        return tokens
    from ldarnet.genomics.boundaries import BoundaryScorer
    from ldarnet.genomics.stitching import stitched_chunks
    from ldarnet.genomics.windows import WindowGrid

    scorer, grid = BoundaryScorer(network, "forward", [stage]), WindowGrid.of(window)

    def chunks(selected: Selected) -> Iterator[tuple[int, int]]:
        record, sequence, intervals = selected
        for table in stitched_chunks(record, alphabet.encode(sequence), intervals, grid, scorer, 1):
            yield from zip(table.starts.tolist(), table.ends.tolist(), strict=True)

    return chunks


def _all_records(fasta: Path) -> Iterator[Selected]:
    """Yield each record as a contig of its own, whatever its name."""
    import numpy as np

    from ldarnet.genome.fasta import read_contigs
    from ldarnet.genomics.genome import GenomeRecord

    for number, (name, sequence) in enumerate(read_contigs(fasta)):
        yield GenomeRecord(number, name, 0, len(sequence), ""), sequence, np.array([[0, len(sequence)]])


def _selected(genome: Genome, selection: Selection) -> Iterator[Selected]:
    """Yield the records with selected intervals."""
    records = {record.number: record for record in genome.records}
    for number, sequence in genome.sequences(selection):
        yield records[number], sequence.decode("ascii"), selection[number]
