"""Score the alleles of a file: locate them in the genome, check REF, and run the model contig by contig."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics.genome import Genome, GenomeRecord
from ldarnet.genomics.regions import name_hint
from ldarnet.genomics.variants.alleles import Allele, place
from ldarnet.genomics.variants.passes import read_pairs
from ldarnet.genomics.variants.score import VariantScore
from ldarnet.genomics.variants.unfinished import UnfinishedScores
from ldarnet.printable import printable

Located = dict[int, list[int]]
"""Number of a record of the genome -> indices of its alleles."""

_SHOWN_BASES = 20


def locate(genome: Genome, alleles: Sequence[Allele], where: str) -> Located:
    """Find the record of the genome that contains each allele, and check REF.

    Where the genome has N or another ambiguity code, any REF is accepted.

    Args:
        genome: the genome.
        alleles: the alleles.
        where: file and unit of the numbers of the alleles, such as ``my.vcf: line``.

    Raises:
        UserError: a contig is not in the genome, a position is outside its contig, or REF differs from the genome.
    """
    records: dict[str, list[GenomeRecord]] = defaultdict(list)
    for record in genome.records:
        records[record.contig].append(record)
    located: Located = defaultdict(list)
    for index, allele in enumerate(alleles):
        located[_record(genome, records.get(allele.contig, []), allele, where).number].append(index)
    by_number = {record.number: record for record in genome.records}
    for number, sequence in genome.sequences(located):
        for index in located[number]:
            _check_ref(genome, by_number[number], sequence, alleles[index], where)
    return located


def score_alleles(
    genome: Genome,
    alleles: Sequence[Allele],
    located: Located,
    model: Any,
    scores: Sequence[VariantScore],
    *,
    window: int,
    batch: int,
    advance: Callable[[int], None],
    unfinished: UnfinishedScores | None = None,
) -> np.ndarray:
    """Compute the scores of all alleles.

    Args:
        genome: the genome.
        alleles: the alleles.
        located: see `locate`.
        model: an `LDARNetForMaskedLM`.
        scores: the scores.
        window: length of the windows in bases.
        batch: alleles per forward pass.
        advance: called with the number of alleles that are finished.
        unfinished: scores of an earlier run, which are not computed again, and place for new ones.

    Returns:
        (alleles, scores) float64, NaN where an allele has no score.
    """
    values = np.full((len(alleles), len(scores)), np.nan)
    finished = np.zeros(len(alleles), bool)
    if unfinished is not None:
        indices, earlier = unfinished.read(len(alleles))
        values[indices], finished[indices] = earlier, True
    records = {record.number: record for record in genome.records}
    for number, sequence in genome.sequences(located):
        ids = alphabet.encode(sequence)
        supported = [index for index in located[number] if alleles[index].unsupported_reason(window) is None]
        advance(len(located[number]) - len(supported))
        for first in range(0, len(supported), batch):  # the same batches in a resumed run, for the same rounding
            indices = supported[first : first + batch]
            if not finished[indices].all():
                pairs = [place(alleles[index], records[number], ids, window) for index in indices]
                values[indices] = [
                    [score.compute(readings) for score in scores] for readings in read_pairs(model, pairs)
                ]
                if unfinished is not None:
                    unfinished.add(indices, values[indices])
            advance(len(indices))
    return values


def unscored(alleles: Sequence[Allele], window: int) -> Iterator[str]:
    """Yield one line for each kind of allele without scores, and one for those without likelihood ratios."""
    counts: dict[str, int] = defaultdict(int)
    indels = 0
    for allele in alleles:
        reason = allele.unsupported_reason(window)
        if reason is not None:
            counts[reason] += 1
        elif len(allele.ref) != len(allele.alt):
            indels += 1
    for reason, count in sorted(counts.items()):
        yield f"no scores for {count:,} {reason}"
    if indels:
        yield f"no likelihood ratios for {indels:,} insertions and deletions"


def _record(genome: Genome, records: Sequence[GenomeRecord], allele: Allele, where: str) -> GenomeRecord:
    place = f"{printable(allele.contig)}:{allele.position + 1:,}"
    if not records:
        raise UserError(
            f"{where} {allele.number}: no contig {printable(allele.contig)} in {genome.path}; "
            f"{name_hint(allele.contig, genome)}"
        )
    found = records[max(bisect_right(records, allele.position, key=lambda record: record.start) - 1, 0)]
    if not found.start <= allele.position or allele.position + len(allele.ref) > found.end:
        raise UserError(
            f"{where} {allele.number}: REF at {place} extends beyond the sequence of this contig "
            f"({found.start + 1:,}-{found.end:,}) in {genome.path}; is it of another assembly?"
        )
    return found


def _check_ref(genome: Genome, record: GenomeRecord, sequence: bytes, allele: Allele, where: str) -> None:
    start = allele.position - record.start
    bases = sequence[start : start + len(allele.ref)].decode("ascii").upper()
    if any(base != ref and base in "ACGT" for base, ref in zip(bases, allele.ref, strict=True)):
        raise UserError(
            f"{where} {allele.number}: REF is {printable(allele.ref[:_SHOWN_BASES])}, but "
            f"{printable(allele.contig)}:{allele.position + 1:,} is {bases[:_SHOWN_BASES]} in {genome.path}; is it of "
            "another assembly?"
        )
