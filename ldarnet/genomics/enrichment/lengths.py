"""Distribution of chunk lengths in a landscape.

Shapes: C chunks, T positions of the axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ldarnet import alphabet
from ldarnet.genome.annotation import Transcript
from ldarnet.genomics.enrichment.classes import region_classes
from ldarnet.genomics.enrichment.landscape import Landscape


def chunks(landscape: Landscape) -> tuple[np.ndarray, np.ndarray]:
    """First positions and lengths of the chunks, (C,) each.

    Only chunks between two boundaries count, without unknown bases.
    """
    at = np.flatnonzero(landscape.boundary)
    unknown = np.cumsum(np.append(0, landscape.ids >= alphabet.N))
    complete = unknown[at[1:]] == unknown[at[:-1]]
    return at[:-1][complete], np.diff(at)[complete]


def lengths_by_class(landscape: Landscape, transcripts: Sequence[Transcript]) -> dict[str, np.ndarray]:
    """Class of bases -> lengths of the chunks whose first and last base are in it; see `region_classes`."""
    first, length = chunks(landscape)
    found = {"all": length}
    for name, mask in region_classes(landscape, transcripts).items():
        found[name] = length[mask[first] & mask[first + length - 1]]
    return {name: lengths for name, lengths in found.items() if len(lengths)}
