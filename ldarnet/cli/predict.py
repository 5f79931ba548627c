"""`ldarnet predict`."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldarnet.cli.arguments import FastaFile, import_models
from ldarnet.cli.regions import BedFile, RegionNames, RenameFile, open_genome
from ldarnet.cli.sequences import OutFile, base_progress, open_output

if TYPE_CHECKING:
    from ldarnet.genomics.genome import Genome
    from ldarnet.genomics.regions import GenomeRegion


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of a fine-tuned model, or of its fine-tuning run.")
    ],
    fasta: FastaFile,
    out: OutFile = None,
    region: RegionNames = None,
    bed: BedFile = None,
    rename: RenameFile = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=8,
            metavar="BASES",
            help="Crop longer sequences to this many central bases. Default: as in fine-tuning.",
        ),
    ] = None,
    strands: Annotated[
        int | None,
        typer.Option(
            min=1, max=2, metavar="N", help="Strands to evaluate; 2 averages over both. Default: as in fine-tuning."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Sequences per batch.")] = 64,
) -> None:
    """Predict classes and their probabilities, or values; write one line per sequence as TSV.

    With --region or --bed, FASTA is a genome (.2bit, too), and each region is a sequence, in the order of the genome. A
    model of bases then writes BED: intervals of bases with the same predicted class other than none, with 1,000 times
    their mean probability as score.
    """
    from ldarnet.errors import UserError
    from ldarnet.finetuning.predict import Classifier
    from ldarnet.genome.fasta import read_contigs
    from ldarnet.genomics.regions import locate

    if rename is not None and not region and bed is None:
        raise UserError("--rename renames the contigs of a genome for --region and --bed; add one of them")
    import_models()
    classifier = Classifier(model, max_length=max_length, strands=strands, batch=batch)
    if not region and bed is None:
        with open_output(out) as file, base_progress("predicting", fasta, out) as advance:
            classifier.write(read_contigs(fasta), file, fasta, advance)
    else:
        genome = open_genome(fasta, rename)
        regions = list(locate(genome, region or (), bed))
        bases = sum(one.end - one.start for one in regions)
        with open_output(out) as file, base_progress("predicting", fasta, out, bases) as advance:
            found = _sequences(genome, regions)
            if classifier.targets.per_base:
                classifier.write_bed(((one.contig, one.start, text) for one, text in found), file, fasta, advance)
            else:
                classifier.write(((one.name, text) for one, text in found), file, fasta, advance)
    print(classifier.note() if out is None else f"wrote {out}: {classifier.note()}", file=sys.stderr)


def _sequences(genome: Genome, regions: Sequence[GenomeRegion]) -> Iterator[tuple[GenomeRegion, str]]:
    """Yield the regions and their sequences, in the order of the records of the genome."""
    of_record: defaultdict[int, list[GenomeRegion]] = defaultdict(list)
    for region in regions:
        of_record[region.record].append(region)
    starts = {record.number: record.start for record in genome.records}
    for number, sequence in genome.sequences(of_record):
        for region in of_record[number]:
            part = sequence[region.start - starts[number] : region.end - starts[number]]
            yield region, part.decode("ascii")
