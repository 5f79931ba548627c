"""Boundaries from a genome track."""

from __future__ import annotations

from ldarnet.model.chunking import register
from ldarnet.model.chunking.given import GivenBoundaries


@register("file")
class TrackBoundaries(GivenBoundaries):
    """Boundaries that the caller reads from a track at the coordinates of each sequence.

    In pretraining, `data.boundaries` names the track; see :mod:`ldarnet.data.tracks`. ``track`` is the SHA-256 of its
    file, so that a run does not resume with another track.
    """

    OPTIONS = {"track": str}
    hint = "pass those of your track at the coordinates of the sequences (in pretraining, see data.boundaries)"
