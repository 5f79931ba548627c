"""Chunk boundaries that data workers find, for chunking methods whose boundaries are not computed by the network."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ldarnet.config import RunConfig
from ldarnet.data import Masking, NextBase, ShardSet, Windows
from ldarnet.data.loader import BoundarySource
from ldarnet.data.tracks import open_track
from ldarnet.data.windows import Locations
from ldarnet.io.files import sha256_file
from ldarnet.model.chunking.given import GivenBoundaries
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.runtime.distributed import World

MEASURED_WINDOWS = 16
"""Windows from which the mean number of bases per chunk is measured."""


@dataclass(frozen=True)
class FromIds:
    """Boundaries that depend only on the input of the model."""

    find: Callable[[np.ndarray], np.ndarray]

    def __call__(self, ids: np.ndarray, locations: Locations) -> np.ndarray:
        """Find the boundaries of masked windows, (b, L) bool."""
        return self.find(ids)


def boundary_source(config: RunConfig, model_config: LDARNetConfig, shards: ShardSet) -> BoundarySource | None:
    """Source of the boundaries of a run; None if the network computes them.

    Raises:
        UserError: see `ldarnet.data.tracks.open_track`.
    """
    method, data = model_config.chunking_method, config.data
    if data.boundaries is not None:
        return open_track(data.boundaries, shards, model_config.target_ratio, data.boundaries_contigs)
    finder = method.finder(model_config.chunking) if issubclass(method, GivenBoundaries) else None
    return None if finder is None else FromIds(finder)


def track_hash(config: RunConfig, world: World) -> str | None:
    """SHA-256 of `data.boundaries`; None without it. Every rank must call this function.

    Raises:
        UserError: the file cannot be read; raised on all ranks.
    """
    path = config.data.boundaries
    return None if path is None else world.from_main(lambda: sha256_file(path))


def measure_bases_per_chunk(
    source: BoundarySource | None, windows: Windows, masking: Masking | NextBase
) -> float | None:
    """Mean bases per chunk of the first training windows, with their masks; None without a source.

    Raises:
        UserError: a shard is missing or damaged.
    """
    if source is None:
        return None
    positions = np.arange(MEASURED_WINDOWS)
    locations = windows.locations(positions)
    ids, _ = windows.read(locations)
    found = source(masking.windows(ids, windows.shards.fingerprint, positions).input_ids, locations)
    found[:, 0] = True
    return found.size / int(found.sum())
