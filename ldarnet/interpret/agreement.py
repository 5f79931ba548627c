"""Agreement of boundary masks with each other, with the other strand and with masked bases.

Shapes: W windows, L bases. The first base of a window always begins a chunk, so it is never counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldarnet.interpret.boundaries import Track, chunk_lengths

RESAMPLES = 2000
PERMUTATIONS = 10
"""Permutations of the chunks of each window."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Agreement:
    """Jaccard index of two boundary masks: boundaries in both, divided by boundaries in either. NaN without boundaries.

    Attributes:
        jaccard: the index over all windows.
        interval: its 95% interval: percentiles of the bootstrap over windows; NaN for a single window.
        random: its expected value for the same numbers of boundaries per window at random bases, a ratio of
            expectations.
        permuted: its value after the chunks of the second mask are shuffled within each window, which keeps their
            lengths; mean over `PERMUTATIONS` shuffles.
        corrected: (jaccard - random) / (1 - random): 0 at the chance level, 1 for equal masks; NaN if every base is a
            boundary.
        corrected_interval: 95% interval of `corrected`, from the same resamples.
    """

    jaccard: float
    interval: Interval
    random: float
    permuted: float
    corrected: float
    corrected_interval: Interval


def agreement(first_WL: np.ndarray, second_WL: np.ndarray, *, seed: int = 0) -> Agreement:
    """Compare the boundary masks of two models, or of two inputs, in the same windows.

    Args:
        first_WL: boundary masks, bool.
        second_WL: boundary masks, bool.
        seed: seed of the bootstrap and of the shuffles.
    """
    rng, windows = np.random.default_rng(seed), len(first_WL)
    sums_3W = _sums(first_WL, second_WL)
    jaccard, random = _jaccard_and_chance(sums_3W.sum(axis=1))
    shuffles = (_sums(first_WL, _shuffled(second_WL, rng)).sum(axis=1) for _ in range(PERMUTATIONS))
    permuted = [_jaccard_and_chance(sums_3)[0] for sums_3 in shuffles]
    interval = corrected_interval = (math.nan, math.nan)
    if windows > 1:
        weights_RW = rng.multinomial(windows, np.full(windows, 1 / windows), size=RESAMPLES)
        resampled_R, chance_R = _jaccard_and_chance(sums_3W @ weights_RW.T)
        interval, corrected_interval = _percentiles(resampled_R), _percentiles(_corrected(resampled_R, chance_R))
    return Agreement(
        jaccard=float(jaccard),
        interval=interval,
        random=float(random),
        permuted=float(np.mean(permuted)),
        corrected=float(_corrected(jaccard, random)),
        corrected_interval=corrected_interval,
    )


def _sums(first_WL: np.ndarray, second_WL: np.ndarray) -> np.ndarray:
    """Per window: common boundaries, boundaries of both masks, and expected common boundaries at random; (3, W)."""
    first, second = first_WL[:, 1:], second_WL[:, 1:]
    ours, theirs = first.sum(axis=1), second.sum(axis=1)
    return np.stack([(first & second).sum(axis=1), ours + theirs, ours * theirs / max(first.shape[1], 1)])


def _jaccard_and_chance(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    common, total, expected = sums
    return _ratio(common, total - common), _ratio(expected, total - expected)


def _corrected(jaccard: np.ndarray, random: np.ndarray) -> np.ndarray:
    return _ratio(jaccard - random, 1 - random)


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=np.asarray(under) > 0)


def _percentiles(values: np.ndarray) -> Interval:
    values = values[np.isfinite(values)]
    return tuple(np.quantile(values, [0.025, 0.975]).tolist()) if len(values) else (math.nan, math.nan)


def _shuffled(mask_WL: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the chunks of each window."""
    shuffled = np.zeros_like(mask_WL)
    for row, mask in zip(shuffled, mask_WL, strict=True):
        ends = np.cumsum(rng.permutation(chunk_lengths(mask)))
        row[np.append(0, ends[:-1])] = True
    return shuffled


@dataclass(frozen=True)
class StrandSymmetry:
    """Agreement of the boundaries of a sequence with those of its reverse complement.

    Attributes:
        agreement: agreement of the masks, in the coordinates of the forward strand.
        correlation: Pearson correlation of the probabilities; NaN if they are constant on a strand.
    """

    agreement: Agreement
    correlation: float


def strand_symmetry(forward: Track, reverse: Track, *, seed: int = 0) -> StrandSymmetry:
    """Compare the boundaries of windows with those of their reverse complements.

    A boundary is between two bases, so the boundary before base i corresponds to the boundary before base L - i of the
    reverse complement.

    Args:
        forward: probabilities and masks of the windows, (W, L) each.
        reverse: the same for the reverse complements.
        seed: see `agreement`.
    """
    (ours_WL, mask_WL), (theirs_WL, other_WL) = forward, reverse
    mirrored_WL = np.ones_like(mask_WL)
    mirrored_WL[:, 1:] = other_WL[:, :0:-1]
    pairs = np.stack([ours_WL[:, 1:].ravel(), theirs_WL[:, :0:-1].ravel()]).astype(np.float64)
    constant = pairs.shape[1] < 2 or (np.ptp(pairs, axis=1) == 0).any()
    correlation = math.nan if constant else float(np.corrcoef(pairs)[0, 1])
    return StrandSymmetry(agreement(mask_WL, mirrored_WL, seed=seed), correlation)


@dataclass(frozen=True)
class MaskLeak:
    """How often boundaries are near masked bases.

    Attributes:
        within: k -> share of the boundaries that are at most k bases from a masked base, and the same share of all
            bases, which is its expected value for boundaries that do not depend on the mask.
        rates: (D + 1,), share of the bases at exactly 0 to D bases from the nearest masked base that are boundaries;
            NaN if there are no such bases.
        rate: share of all bases that are boundaries.
    """

    within: dict[int, tuple[float, float]]
    rates: np.ndarray
    rate: float


def mask_leak(
    mask_WL: np.ndarray, masked_WL: np.ndarray, *, distances: Sequence[int] = (0, 1, 2, 4), max_distance: int = 16
) -> MaskLeak:
    """Relate the boundaries in masked windows to the masked bases.

    The distance of the boundary before base i is that of base i: 0 if the base is masked, 1 if a neighbor is.

    Args:
        mask_WL: boundary masks of the masked input, bool.
        masked_WL: whether each base is masked, bool.
        distances: values of k in `MaskLeak.within`.
        max_distance: D of `MaskLeak.rates`.
    """
    boundary, distance = mask_WL[:, 1:], _distance_to(masked_WL)[:, 1:]
    near = {k: distance <= k for k in distances}
    exactly = [distance == k for k in range(max_distance + 1)]
    return MaskLeak(
        within={k: (_share(at[boundary]), _share(at)) for k, at in near.items()},
        rates=np.array([_share(boundary[at]) for at in exactly]),
        rate=_share(boundary),
    )


def _share(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else math.nan


def _distance_to(marked_WL: np.ndarray) -> np.ndarray:
    """Distance of each base to the nearest marked base of its window, (W, L); L or more if there is none."""
    length = marked_WL.shape[1]
    at = np.arange(length)
    left = np.maximum.accumulate(np.where(marked_WL, at, -length), axis=1)
    right = np.minimum.accumulate(np.where(marked_WL, at, 2 * length)[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(at - left, right - at)
