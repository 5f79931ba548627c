"""How far boundaries depend on the strand, on single edits and on the training run, in random windows.

Shapes: W windows, L bases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldarnet import alphabet
from ldarnet.genomics.enrichment.landscape import Landscape
from ldarnet.interpret.agreement import Agreement, agreement, strand_symmetry
from ldarnet.interpret.boundaries import boundary_tracks
from ldarnet.interpret.stability import KINDS, stability

SITES = 2
"""Edits per window and kind of edit."""
FAR = 8
"""Distance, in bases, from which on a changed boundary counts as far from the edit."""


@dataclass(frozen=True)
class RobustnessRow:
    """A measure of robustness.

    Attributes:
        measure: what is measured.
        n: number of windows, or of edits.
        value: the measure.
        low: lower end of its 95% interval, from the bootstrap over windows; NaN if there is none.
        high: upper end.
        chance: its expected value for as many boundaries at random bases; NaN if unknown.
    """

    measure: str
    n: int
    value: float
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan


def random_windows(landscape: Landscape, length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw windows without unknown bases, (W, L) token ids; W is smaller than ``count`` if there are fewer."""
    unknown = np.cumsum(np.append(0, landscape.ids >= alphabet.N))
    starts = np.flatnonzero(unknown[length:] == unknown[:-length]) if length < len(unknown) else np.zeros(0, np.int64)
    chosen = np.sort(rng.choice(starts, min(count, len(starts)), replace=False))
    return landscape.ids[chosen[:, None] + np.arange(length)]


def robustness_rows(
    model: Any, others: Mapping[str, Any], ids_WL: np.ndarray, stage: int, seed: int, batch: int
) -> list[RobustnessRow]:
    """Measure strand symmetry, stability under edits, and agreement with other models.

    Args:
        model: the model.
        others: name -> another model, such as the same one trained with another seed.
        ids_WL: token ids of windows.
        stage: stage whose boundaries are compared.
        seed: seed of edits and resamples.
        batch: windows per forward pass.
    """
    ours = boundary_tracks(model, ids_WL, batch=batch)[stage]
    symmetry = strand_symmetry(
        ours, boundary_tracks(model, alphabet.reverse_complement(ids_WL), batch=batch)[stage], seed=seed
    )
    rows = [
        _jaccard("strands: Jaccard index", len(ids_WL), symmetry.agreement),
        RobustnessRow("strands: correlation of probabilities", len(ids_WL), symmetry.correlation),
    ]
    for kind in KINDS:
        found = stability(model, ids_WL, kind, sites=SITES, distances=(0, FAR), seed=seed, batch=batch)[stage]
        rows += [
            RobustnessRow(f"{kind}: boundaries that change at other bases", found.edits, found.changed[0]),
            RobustnessRow(f"{kind}: share that change one farther than {FAR} bases", found.edits, found.affected[FAR]),
        ]
    for name, other in others.items():
        theirs = boundary_tracks(other, ids_WL, batch=batch)[stage]
        rows.append(_jaccard(f"{name}: Jaccard index", len(ids_WL), agreement(ours[1], theirs[1], seed=seed)))
    return rows


def _jaccard(measure: str, windows: int, found: Agreement) -> RobustnessRow:
    return RobustnessRow(measure, windows, found.jaccard, *found.interval, found.random)
