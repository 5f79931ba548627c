"""Number of bases at which the boundaries of both alleles differ."""

from __future__ import annotations

import math

from ldarnet.genomics.boundaries import average
from ldarnet.genomics.variants.passes import Readings
from ldarnet.genomics.variants.score import VariantScore


def _boundaries_changed(readings: Readings) -> float:
    if readings.config.num_stages == 1:
        return math.nan
    ref, alt = (
        average(readings.config, forward.boundaries, reverse.boundaries)[0][1]
        for forward, reverse in (readings.ref, readings.alt)
    )
    at_ref, at_alt = readings.pair.aligned()
    return float((ref[at_ref] != alt[at_alt]).sum())


SCORE = VariantScore(
    "boundaries_changed",
    "LDAR_BOUNDARIES",
    "Integer",
    "Bases of the window with a boundary of the outermost stage with ALT or with REF but not with both; without the "
    "inserted or deleted bases; probabilities averaged over both strands",
    _boundaries_changed,
)
