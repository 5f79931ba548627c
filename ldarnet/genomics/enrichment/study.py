"""Compare the boundaries at features with null models.

Shapes: N loci, C matched loci, W offsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.nulls.base import NullContext
from ldarnet.genomics.enrichment.nulls.kmers import MAX_K, fit_kmers
from ldarnet.genomics.enrichment.nulls.loci import matched_centers
from ldarnet.genomics.enrichment.resampling import (
    TIE,
    NullSample,
    false_discovery_rates,
    interval_of_mean,
    intervals_of_means,
    two_sided_p,
)


@dataclass(frozen=True)
class EnrichmentRow:
    """Comparison of a feature kind with a null model.

    Attributes:
        feature: kind.
        null: null model.
        statistic: `probability` (mean boundary probability of a window) or `rate` (share of boundaries that the model
            selects).
        n: number of loci.
        observed: mean of the statistic over loci.
        expected: its mean under the null hypothesis.
        effect: difference of both.
        effect_low: lower end of its 95% interval, from the bootstrap over blocks.
        effect_high: upper end.
        standardized: effect divided by the standard deviation over loci; NaN if this is 0.
        p: two-sided permutation p-value; NaN if the null model is undefined here.
        q: false discovery rate over all rows.
    """

    feature: str
    null: str
    statistic: str
    n: int
    observed: float
    expected: float
    effect: float
    effect_low: float
    effect_high: float
    standardized: float
    p: float
    q: float


@dataclass(frozen=True)
class ProfileRow:
    """Boundaries at an offset from the loci of a kind, in the direction of their strand.

    Attributes:
        feature: kind.
        offset: bases from the locus; the boundary at offset 0 is the one at its anchor.
        n: loci with a probability there.
        probability: mean boundary probability.
        probability_low: lower end of its 95% interval, from the bootstrap over blocks.
        probability_high: upper end.
        rate: share of loci with a boundary.
        matched: mean probability at the matched loci.
    """

    feature: str
    offset: int
    n: int
    probability: float
    probability_low: float
    probability_high: float
    rate: float
    matched: float


@dataclass(frozen=True)
class KmerRow:
    """Fit of the regression of boundary probabilities on local k-mers.

    Attributes:
        k: maximum length of the k-mers.
        r2: share of the variance that they explain, on bases that the regression was not fitted to; NaN if undefined.
    """

    k: int
    r2: float


def enrichment_rows(context: NullContext, kinds: Sequence[Loci], advance: Callable[[str], None]) -> list[EnrichmentRow]:
    """Compare all kinds with all null models.

    Args:
        context: inputs of the null models.
        kinds: loci of each kind.
        advance: called with the name of each null model, before it is computed.
    """
    found: list[tuple[Loci, str, str, NullSample | None]] = []
    for null, (statistic, _, model) in NULLS.items():
        advance(null)
        samples = model(context, kinds)
        found += [(loci, null, statistic, sample) for loci, sample in zip(kinds, samples, strict=True)]
    order = [loci.name for loci in kinds]
    found.sort(key=lambda item: order.index(item[0].name))
    p_values = [math.nan if s is None else two_sided_p(float(s.observed.mean()), s.means) for *_, s in found]
    return [
        _row(context, loci, null, statistic, sample, p, q)
        for (loci, null, statistic, sample), p, q in zip(found, p_values, false_discovery_rates(p_values), strict=True)
    ]


def _row(
    context: NullContext, loci: Loci, null: str, statistic: str, sample: NullSample | None, p: float, q: float
) -> EnrichmentRow:
    nan = math.nan
    if sample is None:
        return EnrichmentRow(loci.name, null, statistic, 0, nan, nan, nan, nan, nan, nan, p, q)
    difference = sample.observed - sample.expected
    blocks = context.landscape.blocks(loci.anchor[sample.rows], context.block)
    low, high = interval_of_mean(difference, blocks, context.rng("interval", null, loci.name))
    spread = float(sample.observed.std(ddof=1)) if len(difference) > 1 else 0.0
    effect = float(difference.mean())
    return EnrichmentRow(
        feature=loci.name,
        null=null,
        statistic=statistic,
        n=len(difference),
        observed=float(sample.observed.mean()),
        expected=float(sample.expected.mean()),
        effect=effect,
        effect_low=low,
        effect_high=high,
        standardized=effect / spread if spread > TIE else nan,
        p=p,
        q=q,
    )


def profile_rows(context: NullContext, loci: Loci, flank: int) -> list[ProfileRow]:
    """Mean boundaries at each offset up to ``flank`` bases from the loci of a kind."""
    landscape, offsets = context.landscape, np.arange(-flank, flank + 1)
    at_NW = _clipped(loci.anchor[:, None] + loci.sign[:, None] * offsets, landscape.probability)
    p_NW = landscape.probability[at_NW].astype(np.float64)
    rate_NW = np.where(np.isnan(p_NW), np.nan, landscape.boundary[at_NW])
    blocks = landscape.blocks(loci.anchor, context.block)
    low_W, high_W = intervals_of_means(p_NW, blocks, context.rng("profile", loci.name))
    matched_W = _matched_profile(context, loci, offsets)
    known = ~np.isnan(p_NW)
    counts = known.sum(axis=0)
    with np.errstate(invalid="ignore"):
        p_W, rate_W = (np.where(known, values, 0).sum(axis=0) / counts for values in (p_NW, rate_NW))
    columns = (offsets, counts, p_W, low_W, high_W, rate_W, matched_W)
    return [ProfileRow(loci.name, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _matched_profile(context: NullContext, loci: Loci, offsets: np.ndarray) -> np.ndarray:
    """Mean probability at the matched loci, by offset from the position that corresponds to the anchor, (W,)."""
    probability = context.landscape.probability
    centers_NC, sign_NC = matched_centers(context, loci)
    if (centers_NC < 0).any():
        return np.full(len(offsets), math.nan)
    from_center_N = (loci.anchor - loci.low - loci.width // 2) * loci.sign
    sums, counts = np.zeros((2, len(offsets)))
    for column in range(centers_NC.shape[1]):
        anchor = centers_NC[:, column] + sign_NC[:, column] * from_center_N
        at = _clipped(anchor[:, None] + sign_NC[:, column, None] * offsets, probability)
        known = ~np.isnan(probability[at])
        sums += np.where(known, probability[at], 0).sum(axis=0)
        counts += known.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return sums / counts


def _clipped(positions: np.ndarray, axis: np.ndarray) -> np.ndarray:
    return np.clip(positions, 0, len(axis) - 1)


def kmer_rows(context: NullContext) -> list[KmerRow]:
    """Fit the regressions on k-mers, for k from 1 to 6."""
    return [KmerRow(k, fit_kmers(context, k).r2) for k in range(1, MAX_K + 1)]


def check_loci(kinds: Sequence[Loci], minimum: int, where: str) -> tuple[list[Loci], list[Loci]]:
    """Split kinds into those with enough loci and the others.

    Raises:
        UserError: no kind has enough loci.
    """
    enough = [loci for loci in kinds if len(loci) >= minimum]
    if not enough:
        counts = ", ".join(f"{loci.name} {len(loci)}" for loci in kinds) or "none"
        raise UserError(
            f"{where}: fewer than {minimum} loci of each kind within the selected regions ({counts}); choose larger "
            "regions or other features"
        )
    return enough, [loci for loci in kinds if len(loci) < minimum]
