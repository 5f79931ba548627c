"""Null model of local sequence: the boundary probability, predicted from the k-mers around a position.

Shapes: P positions, N loci, C random windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldarnet import alphabet
from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.genomics.enrichment.nulls.base import NullContext, WindowMeans, ramps
from ldarnet.genomics.enrichment.resampling import NullSample, exchange

MAX_K = 6
TRAINING_POSITIONS = 100_000
"""Maximum number of positions per fold that a regression is fitted to."""
RANDOM_WINDOWS = 20
"""Random windows per locus."""
ITERATIONS = 200
FOLD = 1000
"""Bases of a contig that are fitted, or predicted, together."""


@dataclass(frozen=True)
class KmerFit:
    """Two linear regressions on k-mers before, across and after a boundary, each fitted to every other kilobase.

    Attributes:
        k: length of the k-mers.
        weights: (2, 3 * 4^k) weights of both folds.
        means: (2,) intercepts; NaN for a fold without positions.
        r2: share of the variance that is explained in the fold that a regression was not fitted to.
    """

    k: int
    weights: np.ndarray
    means: np.ndarray
    r2: float

    def predict(self, landscape: Landscape, positions: np.ndarray) -> np.ndarray:
        """Predict probabilities at positions, (P,); each from the regression of the other fold."""
        codes, known = _codes(landscape.ids, positions, self.k)
        other = 1 - _folds(landscape, positions)
        found = self.means[other] + self.weights[other[:, None], codes].sum(axis=1)
        return np.where(known, found, np.nan)


def kmer_regression(context: NullContext, kinds: Sequence[Loci]) -> list[NullSample | None]:
    """Compare the residuals at loci with those of random windows of the same width.

    If local sequence explains the probabilities, residuals at loci are like those elsewhere.
    """
    fit = fit_kmers(context, MAX_K)
    landscape = context.landscape
    observed = WindowMeans(landscape.probability)
    known = np.flatnonzero(landscape.known)
    samples: list[NullSample | None] = []
    for loci in kinds:
        rng = context.rng("k-mers", loci.name)
        low_NC = rng.choice(known, (len(loci), RANDOM_WINDOWS)) - (loci.width // 2)[:, None]
        low = np.column_stack((loci.low, low_NC))
        width = np.broadcast_to(loci.width[:, None], low.shape)
        predicted = _window_means(fit, landscape, low.ravel(), width.ravel()).reshape(low.shape)
        residual = observed(low, width) - predicted
        complete = np.flatnonzero(~np.isnan(residual[:, 0]))
        sample = exchange(residual[complete, 0], residual[complete, 1:], context.permutations, rng)
        if sample is not None:
            rows = complete[sample.rows]
            expected = predicted[rows, 0]
            sample = NullSample(rows, sample.observed + expected, expected, sample.means + expected.mean())
        samples.append(sample)
    return samples


def fit_kmers(context: NullContext, k: int) -> KmerFit:
    """Fit the regressions; the shares of explained variance are those of the other fold."""
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import lsqr

    landscape, rng = context.landscape, context.rng("k-mer fit")
    positions = np.flatnonzero(landscape.known)
    if len(positions) > 2 * TRAINING_POSITIONS:
        positions = np.sort(rng.choice(positions, 2 * TRAINING_POSITIONS, replace=False))
    codes, known = _codes(landscape.ids, positions, k)
    positions, codes = positions[known], codes[known]
    fold, p = _folds(landscape, positions), landscape.probability[positions].astype(np.float64)
    weights, means = np.zeros((2, 3 * 4**k)), np.full(2, np.nan)
    for number in (0, 1):
        rows = fold == number
        if not rows.any():
            continue
        count = int(rows.sum())
        design = csr_array(
            (np.ones(3 * count), codes[rows].ravel(), np.arange(0, 3 * count + 1, 3)), shape=(count, 3 * 4**k)
        )
        means[number] = p[rows].mean()
        weights[number] = lsqr(design, p[rows] - means[number], damp=1e-2, iter_lim=ITERATIONS)[0]
    predicted = means[1 - fold] + weights[(1 - fold)[:, None], codes].sum(axis=1)
    total = float(((p - p.mean()) ** 2).sum()) if len(p) else 0.0
    r2 = 1 - float(((p - predicted) ** 2).sum()) / total if total > 0 else float("nan")
    return KmerFit(k, weights, means, r2)


def _window_means(fit: KmerFit, landscape: Landscape, low: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Means of predictions over windows; NaN where one is missing."""
    position = np.clip(np.repeat(low, width) + ramps(width), 0, len(landscape.ids) - 1)
    unique, inverse = np.unique(position, return_inverse=True)
    values = fit.predict(landscape, unique)[inverse.reshape(-1)]
    return np.add.reduceat(values, np.cumsum(width) - width) / width


def _folds(landscape: Landscape, positions: np.ndarray) -> np.ndarray:
    """Fold of each position: 0 or 1, alternating along the contig."""
    return landscape.coordinates(positions)[1] // FOLD % 2


def _codes(ids: np.ndarray, positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the k-mers before, across and after boundaries, (P, 3); and whether all bases are known, (P,)."""
    codes, known = np.zeros((len(positions), 3), np.int64), np.ones(len(positions), bool)
    for column, first in enumerate((-k, -(k // 2), 0)):
        for step in range(first, first + k):
            base = ids[np.clip(positions + step, 0, len(ids) - 1)].astype(np.int64)
            known &= base < alphabet.N
            codes[:, column] = codes[:, column] * 4 + np.minimum(base, alphabet.N - 1)
        codes[:, column] += column * 4**k
    return codes, known
