"""What a model computes for windows: the interface between models and stitching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class WindowInput:
    """Token ids of a window, (L,) uint8, and the position of its first base on the contig."""

    ids: np.ndarray
    start: int


@dataclass(frozen=True, slots=True)
class WindowScores:
    """Results for a window of length L.

    Attributes:
        signals: name -> values, (L,) float32; NaN where there is no value.
        starts: name of a set of chunks -> first positions of its chunks, (L,) bool.
    """

    signals: dict[str, np.ndarray]
    starts: dict[str, np.ndarray]


class WindowScorer(Protocol):
    """A model that scores windows.

    The scores of a window depend on this window only, except for rounding: matrix products of other sizes sum in
    another order.

    Attributes:
        signals: names of the signals.
        chunks: name of a set of chunks -> name of the signal with its boundary probabilities.
    """

    signals: tuple[str, ...]
    chunks: dict[str, str]

    def __call__(self, windows: Sequence[WindowInput]) -> list[WindowScores]:
        """Score a batch of windows."""
        ...
