"""Stability of boundaries under single substitutions, insertions and deletions.

Shapes: W windows, L bases, E edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldarnet.alphabet import N
from ldarnet.interpret.boundaries import boundary_tracks
from ldarnet.model import LDARNetLanguageModel, LDARNetModel

KINDS = ("substitution", "insertion", "deletion")


@dataclass(frozen=True)
class Stability:
    """How far the boundaries change around an edit of one base.

    The distance of a base from an edit is the number of steps between them; the neighbors of the edited base have
    distance 1. The edited base itself is compared, with distance 0, only for substitutions.

    Attributes:
        edits: number of edits.
        boundaries: mean number of boundaries per window before the edits.
        changed: d -> mean number of bases farther than d from the edit that become or cease to be a boundary.
        affected: d -> share of the edits with at least one such base.
        rates: (D + 1,), share of the bases at exactly 0 to D from the edit that become or cease to be a boundary; NaN
            if there are no such bases.
    """

    edits: int
    boundaries: float
    changed: dict[int, float]
    affected: dict[int, float]
    rates: np.ndarray


def stability(
    model: LDARNetModel | LDARNetLanguageModel,
    ids_WL: np.ndarray,
    kind: str,
    *,
    sites: int = 4,
    distances: Sequence[int] = (0, 1, 8, 32),
    max_distance: int = 32,
    seed: int = 0,
    batch: int = 32,
) -> list[Stability]:
    """Edit single bases at random sites, and compare the boundaries before and after at the same bases.

    Args:
        model: a model that reads bases, and whose boundaries do not depend on the other sequences of the batch.
        ids_WL: token ids of the windows.
        kind: `substitution` of a base by another, `insertion` of a base before it, or its `deletion`.
        sites: maximum number of edits per window; never the first base, N or a masked base.
        distances: values of d in `Stability`.
        max_distance: D of `Stability.rates`.
        seed: seed of sites and bases.
        batch: windows per forward pass.

    Returns:
        One entry for each stage with a router, outermost first; empty if no base can be edited.
    """
    rng = np.random.default_rng(seed)
    row_E, site_E = _sites(ids_WL, sites, rng)
    if not len(row_E):
        return []
    before = boundary_tracks(model, ids_WL, batch=batch)
    after = boundary_tracks(model, _edited(ids_WL[row_E], site_E, kind, rng), batch=batch)
    at_EL, distance_EL = _alignment(site_E, ids_WL.shape[1], kind)
    found = []
    for (_, mask_WL), (_, edited) in zip(before, after, strict=True):
        changed_EL = np.take_along_axis(edited, at_EL, axis=1) != mask_WL[row_E]
        changed_EL &= distance_EL >= 0
        beyond = {d: (changed_EL & (distance_EL > d)).sum(axis=1) for d in distances}
        exactly = [changed_EL[distance_EL == d] for d in range(max_distance + 1)]
        found.append(
            Stability(
                edits=len(row_E),
                boundaries=float(mask_WL.sum(axis=1).mean()),
                changed={d: float(count_E.mean()) for d, count_E in beyond.items()},
                affected={d: float((count_E > 0).mean()) for d, count_E in beyond.items()},
                rates=np.array([values.mean() if values.size else np.nan for values in exactly]),
            )
        )
    return found


def _sites(ids_WL: np.ndarray, sites: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Window and base of each edit, (E,) each."""
    rows, chosen = [], []
    for row, ids in enumerate(ids_WL):
        known = 1 + np.flatnonzero(ids[1:] < N)
        picked = rng.choice(known, min(sites, len(known)), replace=False)
        rows += [row] * len(picked)
        chosen += sorted(picked.tolist())
    return np.array(rows, np.int64), np.array(chosen, np.int64)


def _edited(ids_EL: np.ndarray, site_E: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Edit one base of each row; the rows become one base longer or shorter."""
    edits, length = ids_EL.shape
    row_E, at = np.arange(edits), np.arange(length + 1)
    if kind == "substitution":
        edited = ids_EL.copy()
        edited[row_E, site_E] = (edited[row_E, site_E] + rng.integers(1, N, edits)) % N
        return edited
    if kind == "insertion":
        edited = np.take_along_axis(ids_EL, at - (at > site_E[:, None]), axis=1)
        edited[row_E, site_E] = rng.integers(0, N, edits)
        return edited
    at = at[: length - 1]
    return np.take_along_axis(ids_EL, at + (at >= site_E[:, None]), axis=1)


def _alignment(site_E: np.ndarray, length: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Index of each original base after the edit, and its distance from the edit, -1 if it is not compared; (E, L)."""
    offset_EL = np.arange(length) - site_E[:, None]
    at_EL = np.broadcast_to(np.arange(length), offset_EL.shape)
    if kind == "substitution":
        return at_EL, abs(offset_EL)
    if kind == "insertion":
        return at_EL + (offset_EL >= 0), np.where(offset_EL >= 0, offset_EL + 1, -offset_EL)
    # The deleted base is not compared; its index is replaced by a valid one.
    return at_EL - (offset_EL > 0) - (offset_EL == 0), np.where(offset_EL == 0, -1, abs(offset_EL))
