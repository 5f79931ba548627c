"""Labeled variants of published sets as tables, and their labels for tables of scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldarnet.errors import UserError
from ldarnet.extras import optional_imports
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.regions import contig_synonyms
from ldarnet.genomics.variants.alleles import Allele
from ldarnet.genomics.variants.evaluation import Labeled, read_labels
from ldarnet.genomics.variants.sets import VariantSet, fetch_set
from ldarnet.genomics.variants.table import COLUMNS, is_table, read_table, table_alleles, unit
from ldarnet.genomics.variants.vcf import read_lines
from ldarnet.printable import printable

if TYPE_CHECKING:
    import pyarrow

LABEL = "label"
"""Column of a set's table with the labels, as booleans."""
REVIEW_STARS = {
    "practice_guideline": 4,
    "reviewed_by_expert_panel": 3,
    "criteria_provided,_multiple_submitters,_no_conflicts": 2,
    "criteria_provided,_conflicting_classifications": 1,
    "criteria_provided,_conflicting_interpretations": 1,
    "criteria_provided,_single_submitter": 1,
}
"""CLNREVSTAT of ClinVar -> stars, as in https://www.ncbi.nlm.nih.gov/clinvar/docs/review_status; others have none."""

_REVIEW = "CLNREVSTAT"
_CHROMOSOMES = {*map(str, range(1, 23)), "X", "Y"}
_BASES = {*"ACGT"}


@dataclass(frozen=True, slots=True)
class LabeledSet:
    """The labeled variants of a published set.

    Attributes:
        published: the set.
        rows: columns chrom, pos, ref, alt, `LABEL`, and those of the publisher.
        alleles: the allele of each row.
        unit: what the numbers of the alleles count.
    """

    published: VariantSet
    rows: pyarrow.Table
    alleles: list[Allele]
    unit: str


def open_set(chosen: VariantSet, cache: Path | None = None) -> LabeledSet:
    """Download a set if it is not in the cache, and read it; see `ldarnet.genomics.variants.sets.fetch_set`.

    Raises:
        UserError: the file cannot be downloaded, is damaged, or has other columns than expected.
    """
    path, notes = fetch_set(chosen, cache)
    for note in notes:
        print(note, file=sys.stderr)
    return read_set(chosen, path)


def read_set(chosen: VariantSet, path: Path) -> LabeledSet:
    """Read the labeled variants of a set from its file.

    Raises:
        UserError: the file is damaged, or has other columns than expected.
    """
    with optional_imports("a labeled set of variants"):
        import pyarrow

    rows, numbers = read_table(path) if is_table(path) else _read_clinvar(chosen, path)
    for column in (*COLUMNS, chosen.label, *([chosen.group] if chosen.group else ())):
        if column not in rows.column_names:
            raise _unexpected(chosen, path, f"no column {printable(column)}")
    hint = f"delete {path.parent} to download the set again, or report it"
    classes = {"positive": chosen.positive, "negative": chosen.negative}
    labeled = read_labels(path, rows, numbers, chosen.label, **classes, group=chosen.group, hint=hint)
    rows = rows.take(labeled.rows)
    rows = rows.drop_columns([name for name in (*chosen.drop, LABEL) if name in rows.column_names])
    rows = rows.append_column(LABEL, pyarrow.array(labeled.labels))
    alleles = list(table_alleles(path, rows, [numbers[row] for row in labeled.rows]))
    return LabeledSet(chosen, rows, alleles, unit(path))


def labels_of(path: Path, rows: pyarrow.Table, numbers: Sequence[int], given: LabeledSet) -> tuple[Labeled, int]:
    """Find the variants of a set in a table of scores.

    Chromosomes match with and without ``chr``. A variant that the set contains more than once, such as a control of two
    matched groups, counts as often.

    Args:
        path: path of the table of scores, for error messages.
        rows: the table of scores, with columns chrom, pos, ref and alt.
        numbers: number of each row.
        given: the set.

    Returns:
        The labels, and the number of variants of the set that are not in the table.

    Raises:
        UserError: a column is missing, or the table has no positive or no negative variant of the set.
    """
    scored = [_key(allele) for allele in table_alleles(path, rows, numbers)]
    found = {key: row for row, key in reversed(list(enumerate(scored)))}
    keys = [_key(allele) for allele in given.alleles]
    kept = [index for index, key in enumerate(keys) if key in found]
    positive = np.array(given.rows[LABEL].to_pylist(), bool)[kept]
    if not positive.any() or positive.all():
        chosen = given.published
        raise UserError(
            f"{path}: only {positive.sum():,} positives and {(~positive).sum():,} negatives of {chosen.name}; is the "
            f"table of another assembly than {chosen.assembly}?"
        )
    column = given.published.group
    group = given.rows[column].to_pylist() if column else range(len(keys))
    groups = np.unique([str(group[index]) for index in kept], return_inverse=True)[1]
    used = np.array([found[keys[index]] for index in kept], np.int64)
    chromosomes = np.array([keys[index][0] for index in kept])
    known = {*keys}
    dropped = sum(key not in known for key in scored)
    return Labeled(positive, chromosomes, groups, used, dropped), len(keys) - len(kept)


def named_as_in(genome: Genome, alleles: Sequence[Allele]) -> list[Allele]:
    """Alleles with the contig names of a genome, where these differ by ``chr``."""
    names = {
        contig: next((name for name in (contig, *contig_synonyms(contig)) if name in genome.sizes), contig)
        for contig in {allele.contig for allele in alleles}
    }
    return [replace(allele, contig=names[allele.contig]) for allele in alleles]


def _key(allele: Allele) -> tuple[str, int, str, str]:
    return allele.contig.removeprefix("chr"), allele.position, allele.ref, allele.alt


def _read_clinvar(chosen: VariantSet, path: Path) -> tuple[pyarrow.Table, list[int]]:
    """Read the single-base substitutions of a VCF file of ClinVar with enough review stars."""
    import pyarrow

    fields, numbers, known = list[tuple[str, int, str, str, str, int]](), list[int](), set[str]()
    for number, line in read_lines(path):
        if line.startswith("#"):
            known |= {key for key in (chosen.label, _REVIEW) if line.startswith(f"##INFO=<ID={key},")}
            continue
        contig, position, _, ref, alt, _, _, info = line.split("\t")[:8]
        if contig not in _CHROMOSOMES or ref not in _BASES or alt not in _BASES:
            continue
        values = {key: value for key, _, value in (entry.partition("=") for entry in info.split(";"))}
        stars = REVIEW_STARS.get(values.get(_REVIEW, ""), 0)
        if chosen.label in values and stars >= (chosen.min_stars or 0):
            fields.append((contig, int(position), ref, alt, values[chosen.label], stars))
            numbers.append(number)
    if missing := {chosen.label, _REVIEW} - known:
        raise _unexpected(chosen, path, f"no INFO field {min(missing)}")
    if not fields:
        raise _unexpected(chosen, path, f"no substitutions with {chosen.min_stars} review stars")
    names = (*COLUMNS, chosen.label, "stars")
    return pyarrow.table(dict(zip(names, map(list, zip(*fields, strict=True)), strict=True))), numbers


def _unexpected(chosen: VariantSet, path: Path, what: str) -> UserError:
    return UserError(
        f"{path}: {what}, so it is not the published file of {chosen.name}; delete {path.parent} to download it again, "
        "or report it"
    )
