"""Genomes and features of `boundary_biology`: what a study reads, and what is missing from its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.yeast_variants import chromosome_names
from ldarnet.errors import UserError
from ldarnet.genome.annotation import read_annotation
from ldarnet.genome.sources import text_lines


@dataclass
class StudyInputs:
    """Files of a study.

    Attributes:
        genome: FASTA file.
        regions: regions to read, in the names of the annotations.
        meanings: kind -> what its loci are, and where they were measured.
        names: table of contig names, for `--rename`; None without one.
        annotations: arguments of `--annotation`.
        features: kinds of the annotations to compare; empty for all.
        motifs: MEME file; None without one.
        motif_names: motifs of this file to use.
        missing: features that the data does not have.
    """

    genome: Path
    regions: list[str]
    meanings: dict[str, str]
    names: Path | None = None
    annotations: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    motifs: Path | None = None
    motif_names: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def words(self) -> list[str]:
        """Arguments of `ldarnet enrich`."""
        words = [word for each in self.annotations for word in ("--annotation", each)]
        words += ["--rename", str(self.names)] if self.names else []
        words += ["--features", ",".join(self.features)] if self.features else []
        words += ["--motifs", str(self.motifs)] if self.motifs else []
        return words + [word for name in self.motif_names for word in ("--motif", name)]


YEAST_BEDS = {
    "measured_tss": (
        "Scer_polIItranscripts-adjustedTSS.bed.gz",
        "5' ends of RNA polymerase II transcripts, measured",
    ),
    "tata_box": ("rhee2012-TATAboxes-cleaned.bed.gz", "TATA boxes, Rhee and Pugh 2012"),
    "plus_one_nucleosome": (
        "Scer_transcripts_w_verifiedORFs-nonoverlapping-WT-TFIIB-sort-plusone-nucdyad.bed.gz",
        "dyads of the first nucleosomes of genes, measured",
    ),
}
"""Kind -> BED file of measured features, and what its loci are; of long intervals, the 5' end."""
CODONS = {
    "start_codon": "5' ends of coding sequences",
    "splice_donor": "5' ends of introns",
    "splice_acceptor": "3' ends of introns",
    "stop_codon": "3' ends of coding sequences",
}
YEAST_MOTIFS = ("ABF1", "RAP1", "REB1", "MCM1")


def yeast(data: Path, scratch: Path) -> StudyInputs:
    """S. cerevisiae S288C with gene models, measured TSS, TATA boxes, +1 nucleosomes, and promoter motifs.

    Contigs are named I, II, ... as in the gene models. By default, the study reads chromosome IV.
    """
    folder = data / "genome_yeast_S288C"
    genome = _only(folder, "*.fsa.gz")
    names = scratch / "names.tsv"
    _write(names, (f"{old}\t{new}" for old, new in chromosome_names(genome).items()))
    inputs = StudyInputs(genome, ["IV"], {}, names, features=list(CODONS))
    inputs.annotations.append(str(_only(folder, "*.gff3.gz")))
    inputs.meanings |= CODONS
    for kind, (name, meaning) in YEAST_BEDS.items():
        file = folder / "winston-lab" / "annotations" / name
        if not file.is_file():
            inputs.missing.append(f"{kind} ({meaning}): the data has no {name}")
            continue
        bed = scratch / f"{kind}.bed"
        rows = ((r.contig.removeprefix("chr"), r.start, r.end, ".", 0, r.strand) for r in read_annotation(file)[1])
        _write(bed, ("\t".join(map(str, row)) for row in rows))
        inputs.annotations.append(f"{kind}={bed}")
        inputs.features.append(kind)
        inputs.meanings[kind] = meaning
    motifs = folder / "winston-lab" / "motif_databases" / "macisaac_yeast.v1.meme.gz"
    if motifs.is_file():
        inputs.motifs, inputs.motif_names = motifs, list(YEAST_MOTIFS)
    else:
        inputs.missing.append(f"hits of promoter motifs: the data has no {motifs.name}")
    return inputs


def human_chr20(data: Path, scratch: Path) -> StudyInputs:
    """Gene-rich end of human chromosome 20 (GRCh37) with one GENCODE transcript per gene."""
    genome = _only(data / "genome_human_chr20_GRCh37", "*.fa.gz")
    table = _only(data / "annotation_human_gencode", "grch37.txt.gz")
    genes = scratch / "genes.gtf"
    _write(genes, _exons(table, "20"))
    return StudyInputs(
        genome,
        ["20:61500001-62900000"],
        {
            "tss": "5' ends of GENCODE transcripts",
            "splice_donor": "5' ends of introns",
            "splice_acceptor": "3' ends of introns",
            "transcript_end": "3' ends of GENCODE transcripts",
        },
        annotations=[str(genes)],
        features=["tss", "splice_donor", "splice_acceptor", "transcript_end"],
        missing=[
            "start_codon and stop_codon: the table of transcripts has no coding segments",
            "measured TSS, TATA boxes, nucleosomes and motifs: the data has none for human",
        ],
    )


STUDIES: dict[str, Callable[[Path, Path], StudyInputs]] = {"yeast": yeast, "human-chr20": human_chr20}
"""Study -> function that writes its inputs, from the folder of the data and a folder for files."""


def _exons(table: Path, contig: str) -> Iterable[str]:
    """GTF lines of the exons of a contig; columns: name, contig, strand, start, end, exon starts, exon ends."""
    for line in text_lines(table):
        columns = line.split("\t")
        if len(columns) == 7 and columns[1] == contig:
            name, strand = columns[0], columns[2]
            starts, ends = ([int(at) for at in column.split(",") if at] for column in columns[5:])
            for start, end in zip(starts, ends, strict=True):
                fields = (contig, "GENCODE", "exon", start + 1, end, ".", strand, ".")
                yield "\t".join(map(str, fields)) + f'\tgene_name "{name}"; transcript_id "{name}";'


def _only(folder: Path, pattern: str) -> Path:
    """The only file of a folder that matches a pattern."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise UserError(f"{folder}: {len(found)} files {pattern} instead of 1; check --data")
    return found[0]


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
