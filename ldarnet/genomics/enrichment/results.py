"""Results of an enrichment study, and their CSV files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from ldarnet.errors import UserError
from ldarnet.genome.annotation import Transcript
from ldarnet.genomics.enrichment.classes import ClassRow, class_rows
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.fragmentation import FragmentationRow, fragmentation_rows
from ldarnet.genomics.enrichment.motifs import Motif
from ldarnet.genomics.enrichment.nulls.base import NullContext
from ldarnet.genomics.enrichment.robustness import RobustnessRow
from ldarnet.genomics.enrichment.study import (
    EnrichmentRow,
    KmerRow,
    ProfileRow,
    enrichment_rows,
    kmer_rows,
    profile_rows,
)
from ldarnet.io.files import atomic_path
from ldarnet.io.records import read_bytes

if TYPE_CHECKING:
    from ldarnet.tokenization.base import Tokenization

Row = TypeVar("Row")
MAX_BYTES = 1 << 26
"""Maximum size of a table."""
ALPHA = 0.05
"""Effects with a smaller false discovery rate count as different from a null model."""


@dataclass(frozen=True)
class StudyResults:
    """Results of a study.

    Attributes:
        context: boundaries along the selected regions, and settings.
        kinds: loci of each kind.
        transcripts: transcripts of all annotations.
        motifs: motifs whose hits are kinds.
        rows: comparisons with the null models.
        profiles: boundaries by distance from the features.
        kmers: share of the variance of the boundary probability that k-mers explain, by k.
        classes: chunk lengths by class of bases.
        fragments: chunks of elements.
        robustness: measures of robustness.
    """

    context: NullContext
    kinds: Sequence[Loci]
    transcripts: Sequence[Transcript]
    motifs: Sequence[Motif]
    rows: Sequence[EnrichmentRow]
    profiles: Sequence[ProfileRow]
    kmers: Sequence[KmerRow]
    classes: Sequence[ClassRow]
    fragments: Sequence[FragmentationRow]
    robustness: Sequence[RobustnessRow]

    @classmethod
    def compute(
        cls,
        context: NullContext,
        kinds: Sequence[Loci],
        transcripts: Sequence[Transcript],
        motifs: Sequence[Motif],
        bpe: Tokenization | None,
        robustness: Sequence[RobustnessRow],
        flank: int,
        advance: Callable[[str], None],
    ) -> StudyResults:
        """Compare all kinds with all null models.

        Args:
            context: inputs of the null models.
            kinds: loci of each kind.
            transcripts: transcripts of all annotations, for the classes of bases and gene tracks.
            motifs: motifs whose hits are kinds.
            bpe: byte-pair encoding to compare with.
            robustness: measures of robustness.
            flank: bases on both sides in profiles.
            advance: called with the name of each null model, before it is computed.
        """
        return cls(
            context,
            kinds,
            transcripts,
            motifs,
            enrichment_rows(context, kinds, advance),
            [row for loci in kinds for row in profile_rows(context, loci, flank)],
            kmer_rows(context),
            class_rows(context, transcripts),
            fragmentation_rows(context, kinds, bpe),
            robustness,
        )

    def of_kind(self, kind: str) -> dict[str, EnrichmentRow]:
        """Null model -> comparison of a kind."""
        return {row.null: row for row in self.rows if row.feature == kind}

    def write_tables(self, out: Path) -> list[str]:
        """Write the CSV files and return their names."""
        tables: dict[str, tuple[type, Sequence[Any]]] = {
            "enrichment.csv": (EnrichmentRow, self.rows),
            "profiles.csv": (ProfileRow, self.profiles),
            "kmers.csv": (KmerRow, self.kmers),
            "classes.csv": (ClassRow, self.classes),
            "fragmentation.csv": (FragmentationRow, self.fragments),
            "robustness.csv": (RobustnessRow, self.robustness),
        }
        for name, (kind, rows) in tables.items():
            write_rows(out / name, kind, rows)
        return list(tables)


def write_rows(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """Write dataclass instances as CSV, one column per field; NaN becomes an empty cell, numbers have six digits."""
    names = [field.name for field in fields(kind)]
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = asdict(row)
            writer.writerow([_cell(values[name]) for name in names])


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read a file of `write_rows`; empty cells of numbers are NaN.

    Raises:
        UserError: the file cannot be read, or is not such a table.
    """
    types = get_type_hints(kind)
    content = read_bytes(path, hint="write it again", max_bytes=MAX_BYTES)
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        return [kind(**{name: _value(row[name], types[name]) for name in types}) for row in reader]
    except (csv.Error, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not a table of `ldarnet enrich`; write it again") from None


def _value(cell: str, kind: type) -> Any:
    return math.nan if kind is float and not cell else kind(cell)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
