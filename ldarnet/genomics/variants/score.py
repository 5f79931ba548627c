"""The interface of a score of variants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ldarnet.genomics.variants.passes import Readings
from ldarnet.plugins import load_folder


@dataclass(frozen=True, slots=True)
class VariantScore:
    """A number for each alternate allele.

    To add a score, add a module to `ldarnet.genomics.variants.scores` with a `VariantScore` named ``SCORE``.

    Attributes:
        name: name of the column in tables.
        info: key of the INFO field in VCF.
        kind: type of the INFO field.
        description: what the number is, with its sign and its rule for insertions and deletions.
        compute: computes the number; NaN if the allele has none.
        larger_effect: whether larger or lower values mean a larger effect.
    """

    name: str
    info: str
    kind: Literal["Float", "Integer"]
    description: str
    compute: Callable[[Readings], float]
    larger_effect: Literal["larger", "lower"] = "larger"

    @property
    def ranking(self) -> str:
        """Column that ranks large effects first; with a minus sign if that are the lowest values."""
        return f"-{self.name}" if self.larger_effect == "lower" else self.name

    @property
    def header(self) -> str:
        """Header line of the INFO field."""
        return f'##INFO=<ID={self.info},Number=A,Type={self.kind},Description="{self.description}">'

    def format(self, value: float) -> str:
        """Format a value for VCF; ``.`` for NaN."""
        return "." if value != value else f"{value:.6g}" if self.kind == "Float" else f"{value:.0f}"


@cache
def all_scores() -> tuple[VariantScore, ...]:
    """Return the scores of all modules, in alphabetical order of the modules."""
    return tuple(module.SCORE for module in load_folder("ldarnet.genomics.variants.scores"))
