"""Differences of arms from the reference, with Holm's correction over the arms of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ldarnet.comparison.statistics import MeanDifference, holm, mean_difference


@dataclass(frozen=True)
class ArmDifference:
    """Difference of an arm from the reference in one quantity.

    Attributes:
        table: table of the report, such as `equal bases`.
        quantity: loss or task.
        arm: name of the arm.
        unit: unit of the difference; `points` are hundredths of a metric.
        difference: mean difference, with interval, p-value and smallest detectable difference.
        holm: p-value after Holm's correction over the table; None if there is no test.
    """

    table: str
    quantity: str
    arm: str
    unit: str
    difference: MeanDifference
    holm: float | None = None

    @property
    def text(self) -> str:
        """Mean difference with the half-width of its interval."""
        one, digits = self.difference, 2 if self.unit == "points" else 4
        return f"{one.mean:+.{digits}f}" + ("" if one.half is None else f" ± {one.half:.{digits}f}")

    @property
    def detectable(self) -> str:
        """Smallest detectable difference."""
        value = self.difference.detectable
        return "-" if value is None else f"{value:.{2 if self.unit == 'points' else 4}f}"


def paired(
    values: Mapping[str, float], reference: Mapping[str, float], correction: float = 0.0, *, minimum: int = 2
) -> MeanDifference | None:
    """Difference of values from those of the reference with the same keys; None if there are no common keys.

    For `correction` and `minimum`, see :func:`ldarnet.comparison.statistics.mean_difference`.
    """
    differences = [values[key] - reference[key] for key in values if key in reference]
    return mean_difference(differences, correction, minimum=minimum) if differences else None


def with_holm(found: Sequence[ArmDifference]) -> list[ArmDifference]:
    """Add Holm's correction over all differences."""
    corrected = holm([one.difference.p for one in found])
    return [replace(one, holm=p) for one, p in zip(found, corrected, strict=True)]


def p_text(p: float | None) -> str:
    """Format a p-value."""
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
