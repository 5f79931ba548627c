"""Score start-loss, stop-gain and splice-site variants of a genome against matched synonymous ones.

    python -m benchmarks.yeast_variants RUN S288C.fsa.gz genes.gff3.gz

The variants are made from the annotation: single-base changes that destroy a start codon, create a stop codon, or
change one of the two bases at an end of an intron. Each has a match: the closest synonymous change in the same gene
from the same base to the same base, in the direction of the gene. So neither the composition of genes nor the
spectrum of changes can separate the classes. The neighboring bases can: a ratio of 7-mer counts shows by how much.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genome.annotation import Transcript
from ldarnet.genome.fasta import Header, read_fasta
from ldarnet.genomics.enrichment.features import check_contigs, load_annotation
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.variants.alleles import Allele
from ldarnet.genomics.variants.evaluation import Labeled, default_scores, evaluate, report
from ldarnet.genomics.variants.run import locate, score_alleles
from ldarnet.genomics.variants.score import all_scores
from ldarnet.genomics.variants.table import alleles_as_table, with_scores
from ldarnet.genomics.windows import UNKNOWN_WINDOW
from ldarnet.model import LDARNetForMaskedLM, load_model
from ldarnet.model.folder import window_length

KINDS = ("start_loss", "stop_gain", "splice_site")
KMER = 7
"""Length of the windows whose counts are the baseline; odd."""
_BASES = "TCAG"
_AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODE = {a + b + c: _AMINO_ACIDS[16 * i + 4 * j + k] for i, a in enumerate(_BASES) for j, b in enumerate(_BASES)
        for k, c in enumerate(_BASES)}  # fmt: skip
"""Codon -> amino acid of the standard code; ``*`` for stop codons."""
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_CHROMOSOME = re.compile(r"\[chromosome=([^\]]+)\]")


@dataclass(frozen=True, slots=True)
class Change:
    """A single-base change in the direction of a gene: position on the contig (0-based), base before and after."""

    position: int
    ref: str
    alt: str


class Gene:
    """Coding sequence of a transcript, and its possible changes."""

    def __init__(self, transcript: Transcript, contig: str) -> None:
        """Read the coding sequence; ``contig`` is the sequence of the contig in upper case."""
        self.transcript, self._contig = transcript, contig
        positions = [at for start, end in transcript.coding for at in range(start, end)]
        self.reverse = transcript.strand == "-"
        self.positions = positions[::-1] if self.reverse else positions
        self.codons = [self.read(self.positions[at : at + 3]) for at in range(0, len(self.positions), 3)]

    def read(self, positions: Sequence[int]) -> str:
        """Bases at positions, in the direction of the gene."""
        text = "".join(self._contig[at] for at in positions)
        return text.translate(_COMPLEMENT) if self.reverse else text

    def is_complete(self) -> bool:
        """Whether the sequence has a start codon, one stop codon at its end, and no codes other than A, C, G and T."""
        if len(self.positions) % 3 or not all(codon in CODE for codon in self.codons):
            return False
        return len(self.codons) > 2 and self.codons[0] == "ATG" and self._protein().find("*") == len(self.codons) - 1

    def _protein(self) -> str:
        return "".join(CODE[codon] for codon in self.codons)

    def inner_changes(self) -> Iterator[tuple[Change, str, str]]:
        """Yield each change between the start and the stop codon, with the amino acids before and after."""
        for number, codon in enumerate(self.codons[1:-1], start=1):
            for at in range(3):
                for alt in "ACGT":
                    if alt != codon[at]:
                        change = Change(self.positions[3 * number + at], codon[at], alt)
                        yield change, CODE[codon], CODE[codon[:at] + alt + codon[at + 1 :]]

    def damaging(self, kind: str) -> list[Change]:
        """All changes of a kind in `KINDS`."""
        if kind == "stop_gain":
            return [change for change, _, after in self.inner_changes() if after == "*"]
        if kind == "start_loss":
            places = list(self.positions[:3])
        else:
            places = [at for start, end in self.transcript.introns for at in (start, start + 1, end - 2, end - 1)]
        return [Change(at, base, alt) for at in places for base in self.read([at]) for alt in "ACGT" if alt != base]

    def allele(self, change: Change) -> Allele:
        """Change as an allele of the forward strand."""
        ref, alt = (base.translate(_COMPLEMENT) if self.reverse else base for base in (change.ref, change.alt))
        return Allele(1, self.transcript.contig, change.position, ref, alt)


def matched_pairs(gene: Gene, rng: np.random.Generator) -> Iterator[tuple[str, Change, Change]]:
    """Yield one damaging change of each kind and its synonymous match; nothing for a kind without a match."""
    synonymous = [change for change, before, after in gene.inner_changes() if before == after]
    used = set[Change]()
    for kind in KINDS:
        changes = gene.damaging(kind)
        for index in rng.permutation(len(changes)).tolist():
            change = changes[index]
            same = [s for s in synonymous if (s.ref, s.alt) == (change.ref, change.alt) and s not in used]
            if same:
                match = min(same, key=lambda other: (abs(other.position - change.position), other.position))
                used.add(match)
                yield kind, change, match
                break


def build_variants(
    genome: Genome, transcripts: Sequence[Transcript], genes: int, seed: int
) -> tuple[list[Allele], list[str], Labeled]:
    """Build pairs of alleles from a random sample of genes, with all genes that have introns first.

    Returns:
        Alleles; kind of each; and labels, where each pair is a group.
    """
    rng = np.random.default_rng(seed)
    order = sorted(rng.permutation(len(transcripts)).tolist(), key=lambda index: not transcripts[index].introns)
    chosen: dict[str, list[Transcript]] = {}
    for index in order[:genes]:
        chosen.setdefault(transcripts[index].contig, []).append(transcripts[index])
    alleles, kinds, labels = list[Allele](), list[str](), list[bool]()
    contigs = {record.number: record.contig for record in genome.records if record.contig in chosen}
    for number, sequence in genome.sequences(contigs):
        text = sequence.decode("ascii").upper()
        for transcript in chosen[contigs[number]]:
            gene = Gene(transcript, text)
            if gene.is_complete():
                for kind, *pair in matched_pairs(gene, rng):
                    alleles += [gene.allele(change) for change in pair]
                    kinds += [kind, kind]
                    labels += [True, False]
    if not alleles:
        raise UserError(f"{genome.path}: no complete gene of the annotation; is it of another assembly?")
    count = len(alleles)
    names = np.array([allele.contig for allele in alleles])
    return alleles, kinds, Labeled(np.array(labels), names, np.arange(count) // 2, np.arange(count), 0)


def kmer_ratios(genome: Genome, alleles: Sequence[Allele]) -> np.ndarray:
    """Log of the count of the `KMER` bases around each substitution with ALT, minus that with REF.

    Counts are of the genome, both strands, plus 1. NaN near the ends of contigs and other letters.
    """
    half, powers = KMER // 2, 4 ** np.arange(KMER)[::-1]
    counts = np.ones(4**KMER)
    around = np.full((len(alleles), KMER), alphabet.N)
    records = {record.number: record.contig for record in genome.records}
    for number, sequence in genome.sequences(records):
        ids = alphabet.encode(sequence)
        for strand in (ids, alphabet.reverse_complement(ids)):
            windows = sliding_window_view(strand, KMER)
            counts += np.bincount(windows[(windows < alphabet.N).all(1)] @ powers, minlength=len(counts))
        for index, allele in enumerate(alleles):
            if allele.contig == records[number] and half <= allele.position < len(ids) - half:
                around[index] = ids[allele.position - half : allele.position + half + 1]
    known = (around < alphabet.N).all(1)
    changed = around.copy()
    changed[:, half] = alphabet.encode("".join(allele.alt for allele in alleles).encode())
    ratios = np.full(len(alleles), np.nan)
    ratios[known] = np.log(counts[changed[known] @ powers] / counts[around[known] @ powers])
    return ratios


def chromosome_names(fasta: Path) -> dict[str, str]:
    """Name of each contig -> its chromosome, for headers with ``[chromosome=NAME]``, as SGD writes them."""
    headers = (item for item in read_fasta(fasta) if isinstance(item, Header))
    found = ((header.name, _CHROMOSOME.search(header.text)) for header in headers)
    return {name: match[1] for name, match in found if match}


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the variants, score and evaluate them, and write the results file."""
    parser = ProgramParser("yeast_variants", __doc__)
    parser.add_argument("model", type=Path, help="model folder, checkpoint or run folder")
    parser.add_argument("genome", type=Path, help="FASTA file")
    parser.add_argument("annotation", type=Path, help="GFF3 file")
    parser.add_argument("--genes", type=int, default=1000, help="number of genes")
    parser.add_argument("--seed", type=int, default=0, help="seed of all choices")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples")
    parser.add_argument("--device", default="cpu", help="device, such as cuda:1")
    add_result_options(parser, "yeast-variants")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    names = chromosome_names(options.genome)
    genome = Genome(options.genome, names or None)
    annotation = load_annotation(options.annotation)
    check_contigs(annotation, genome)
    transcripts = [t for t in annotation.transcripts if t.coding and t.contig in genome.sizes]
    alleles, kinds, labeled = build_variants(genome, transcripts, options.genes, options.seed)
    located = locate(genome, alleles, f"{options.annotation}: variant")
    window = window_length(options.model) or UNKNOWN_WINDOW
    model = load_model(options.model, LDARNetForMaskedLM).eval().to(options.device)
    values = score_alleles(
        genome, alleles, located, model, all_scores(), window=window, batch=16, advance=lambda _: None
    )
    rows = with_scores(alleles_as_table(alleles), all_scores(), values)
    baseline = f"llr_of_{KMER}mers"
    scores = [*default_scores(rows), f"-{baseline}"]
    rows = rows.append_column(baseline, [kmer_ratios(genome, alleles)])
    sections = []
    for kind in ("all", *KINDS):
        keep = np.array([kind in ("all", one) for one in kinds])
        if not keep.any():
            continue
        part = Labeled(labeled.labels[keep], labeled.chromosomes[keep], labeled.groups[keep], labeled.rows[keep], 0)
        results = evaluate(
            options.genome,
            rows,
            part,
            scores,
            resamples=options.resamples,
            seed=options.seed,
            by_chromosome=False,
        )
        text = report(results, {"pairs": int(part.labels.sum())})
        sections.append(text.replace("# Evaluation of variant scores", f"## {kind}"))
    text = heading("Start-loss, stop-gain and splice-site variants against matched synonymous ones", options)
    write_result(file, f"{text}\n- Window: {window:,} bases\n\n" + "\n".join(sections))


if __name__ == "__main__":
    run_program(main)
