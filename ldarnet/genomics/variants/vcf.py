"""Read the alleles of VCF and BCF files, and add INFO fields to their records.

Records are text lines throughout, so every other column is written as it was read. BCF is converted to text by pysam.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ldarnet.errors import UserError
from ldarnet.extras import optional_imports
from ldarnet.genome.bed import is_position
from ldarnet.genome.sources import text_lines
from ldarnet.genomics.variants.alleles import Allele
from ldarnet.genomics.variants.score import VariantScore
from ldarnet.printable import printable
from ldarnet.tasks.damage import damage_errors

INPUT_SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
OUTPUT_SUFFIXES = (".vcf", ".vcf.gz", ".vcf.bgz")
HEADER_KEY = "ldarnet_score_variants"

_COLUMNS = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
_REF = re.compile("[ACGTRYSWKMBDHVN]+")
_INFO_ID = re.compile("##INFO=<ID=([^,>]+)")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line, and check that a VCF header precedes the records.

    Raises:
        UserError: the file cannot be read, is damaged, or is not VCF.
    """
    lines = _bcf_lines(path) if path.suffix == ".bcf" else text_lines(path)
    columns = 0
    for number, line in enumerate(lines, start=1):
        if number == 1 and not line.startswith("##fileformat=VCF"):
            raise UserError(f"{path}: line 1: not VCF: does not begin with ##fileformat=VCF; choose a VCF file")
        if line.startswith("#CHROM"):
            columns = _check_columns(path, number, line)
        elif line and not line.startswith("#"):
            found = line.count("\t") + 1
            if not columns:
                raise UserError(f"{path}: line {number}: no line #CHROM before the first record; add the header")
            if found != columns:
                raise UserError(f"{path}: line {number}: {found} columns, but {columns} in the header; fix the line")
        if line:
            yield number, line
    if not columns:
        raise UserError(f"{path}: no line #CHROM, so it is empty or truncated; choose a VCF file")


def read_alleles(path: Path) -> Iterator[Allele]:
    """Yield the alternate alleles of all records; none for a record with ALT ``.``.

    Raises:
        UserError: see `read_lines`; or a record has a malformed POS, REF or ALT.
    """
    for number, line in read_lines(path):
        if not line.startswith("#"):
            yield from _alleles(f"{path}: line {number}", number, line)


def annotated(
    lines: Iterable[tuple[int, str]], scores: Sequence[VariantScore], values: np.ndarray, note: str
) -> Iterator[str]:
    """Yield the lines of a VCF file with INFO fields for the scores; fields with the same keys are replaced.

    Args:
        lines: lines of the file; see `read_lines`.
        scores: the scores.
        values: (alleles, scores), in the order of `read_alleles`; NaN where there is no value.
        note: value of the header line that describes the model.
    """
    keys, row = {score.info for score in scores}, 0
    for _, line in lines:
        if line.startswith("##"):
            match = _INFO_ID.match(line)
            if not (match and match[1] in keys) and not line.startswith(f"##{HEADER_KEY}="):
                yield line
        elif line.startswith("#"):
            yield from (score.header for score in scores)
            yield f'##{HEADER_KEY}="{note}"'
            yield line
        else:
            fields = line.split("\t")
            count = _alternates(fields[4])
            fields[7] = _info(fields[7], scores, values[row : row + count])
            row += count
            yield "\t".join(fields)


@contextmanager
def vcf_writer(path: Path, name: str) -> Iterator[Any]:
    """Open a file for bytes; bgzip-compressed if ``name`` ends with .gz or .bgz."""
    if not name.endswith(("gz",)):
        with path.open("wb") as file:
            yield file
        return
    with optional_imports("ldarnet score-variants"):
        import pysam
    with pysam.BGZFile(str(path), "wb", None) as file:
        yield file


def _check_columns(path: Path, number: int, line: str) -> int:
    fields = line.split("\t")
    if tuple(fields[:8]) != _COLUMNS:
        raise UserError(f"{path}: line {number}: not the columns of VCF; write {', '.join(_COLUMNS)} separated by tabs")
    return len(fields)


def _alleles(where: str, number: int, line: str) -> Iterator[Allele]:
    contig, position, _, ref, alt = line.split("\t", 5)[:5]
    ref, alt = ref.upper(), alt.upper()
    if not contig or not is_position(position) or int(position) < 1:
        raise UserError(f"{where}: POS is {printable(position)!r}; write a position from 1")
    if not _REF.fullmatch(ref):
        raise UserError(f"{where}: REF is {printable(ref[:40])!r}; write nucleotide codes")
    if not all(alt.split(",")):
        raise UserError(f"{where}: empty ALT; write the alleles, or . for none")
    if _alternates(alt):
        for allele in alt.split(","):
            yield Allele(number, contig, int(position) - 1, ref, allele)


def _alternates(alt: str) -> int:
    """Number of alternate alleles."""
    return 0 if alt == "." else alt.count(",") + 1


def _info(info: str, scores: Sequence[VariantScore], values: np.ndarray) -> str:
    """Add the fields of a record, without those that have no value for any allele."""
    keys = {score.info for score in scores}
    fields = [field for field in info.split(";") if field not in ("", ".") and field.partition("=")[0] not in keys]
    for score, column in zip(scores, values.T.tolist(), strict=True):
        if any(value == value for value in column):
            fields.append(f"{score.info}={','.join(map(score.format, column))}")
    return ";".join(fields) or "."


def _bcf_lines(path: Path) -> Iterator[str]:
    with optional_imports("ldarnet score-variants"):
        import pysam

    pysam.set_verbosity(0)
    with damage_errors(path, "not BCF"), pysam.VariantFile(str(path)) as file:
        yield from str(file.header).rstrip("\n").split("\n")
        for record in file:
            yield str(record).rstrip("\n")
