"""Variants to score: a VCF file, a table, or a published set of labeled variants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ldarnet.errors import UserError
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.variants import table, vcf
from ldarnet.genomics.variants.alleles import Allele
from ldarnet.genomics.variants.labeled import named_as_in, open_set
from ldarnet.genomics.variants.sets import VariantSet, all_sets
from ldarnet.plugins import suggestion

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class VariantInput:
    """Alleles to score.

    Attributes:
        alleles: the alleles.
        rows: the table of which they are rows; None for VCF.
        where: file or set and unit of the numbers of the alleles, such as ``my.vcf: line``.
        published: the set; None for a file of the user.
    """

    alleles: list[Allele]
    rows: pyarrow.Table | None
    where: str
    published: VariantSet | None = None

    def in_genome(self, genome: Genome) -> list[Allele]:
        """Alleles as they are; those of a published set with the contig names of the genome."""
        return named_as_in(genome, self.alleles) if self.published else self.alleles


def published_set(variants: Path) -> VariantSet | None:
    """Published set that an argument names; None if it is a file.

    Raises:
        UserError: neither a file nor a set has this name, and the name has no suffix.
    """
    if variants.exists() or (variants.suffix and str(variants) not in all_sets()):
        return None
    if str(variants) not in all_sets():
        raise UserError(f"{variants}: no such file or published set; {suggestion(str(variants), all_sets())}")
    return all_sets()[str(variants)]


def read_variants(variants: Path, cache: Path | None) -> VariantInput:
    """Read a file of variants, or download and read a published set.

    Raises:
        UserError: the file or set cannot be read or downloaded, is malformed, or has no alleles.
    """
    if chosen := published_set(variants):
        given = open_set(chosen, cache)
        return VariantInput(given.alleles, given.rows, f"{chosen.name} ({chosen.assembly}): {given.unit}", chosen)
    where = f"{variants}: {table.unit(variants)}"
    if table.is_table(variants):
        rows, given = table.read_table(variants)
        return VariantInput(list(table.table_alleles(variants, rows, given)), rows, where)
    alleles = list(vcf.read_alleles(variants))
    if not alleles:
        raise UserError(f"{variants}: no alternate alleles; choose a file with at least one")
    return VariantInput(alleles, None, where)
