"""Boundaries along one held-out window, for boundaries.jsonl and the figure at the end of a run."""

from typing import Any

import torch

from ldarnet.alphabet import N, decode
from ldarnet.config import RunConfig
from ldarnet.data import Masking, ShardSet, validation_batches
from ldarnet.data.loader import BoundarySource
from ldarnet.ops import to_device
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.router_metrics import boundaries_at_bases

MAX_BASES = 512


def boundary_sample(
    engine: Engine, shards: ShardSet, config: RunConfig, world: World, source: BoundarySource | None = None
) -> dict[str, Any]:
    """Compute boundaries along an unmasked window from the middle of the validation split.

    Every rank must call this function. ``source`` is the source of chunk boundaries, if the run has one.

    Returns:
        An empty dict if the model has a single stage, and therefore no chunks. Otherwise, a dict with these keys:
        `contig`, `start` (0-based) and `bases`: location and sequence of the window. If the window is longer than
        MAX_BASES bases, only its middle is returned.
        `boundaries`: for each stage, positions of chunk starts relative to `start`.
        `probability`: boundary probabilities of the outermost stage in percent, one per base.

    Raises:
        UserError: the window cannot be read; raised on all ranks.
    """
    if engine.model_config.num_stages == 1:
        return {}
    with world.together():
        ids, given, contig, start = middle_window(shards, config, source)
    engine.deepspeed.eval()
    with torch.no_grad():
        stages = engine.forward(to_device(ids, world.device, torch.int64), boundaries=given).boundaries
    engine.deepspeed.train()
    margin = max(ids.shape[1] - MAX_BASES, 0) // 2
    shown = slice(margin, margin + MAX_BASES)
    return {
        "contig": shards.index.name(contig),
        "start": start + margin,
        "bases": decode(ids[0, shown].clamp(max=N).numpy()),
        "boundaries": [mask[0, shown].nonzero()[:, 0].tolist() for mask in boundaries_at_bases(stages)],
        "probability": (100 * stages[0].probability[0, shown]).round().int().tolist(),
    }


def middle_window(
    shards: ShardSet, config: RunConfig, source: BoundarySource | None = None
) -> tuple[torch.Tensor, torch.Tensor | None, int, int]:
    """Read a window from the middle of the validation split (of the training split in a run without validation).

    Returns:
        Token ids of the window, shape (1, L); its boundaries, (1, L) bool, or None without a source of chunk
        boundaries; index of its contig; its 0-based start. If the window is quarantined
        (it overlaps a damaged or missing block), all tokens are N.

    Raises:
        UserError: the window cannot be read.
    """
    (batch,) = validation_batches(
        shards,
        config.validation.split if config.validation.windows else "train",
        length=config.data.length,
        max_windows=2,
        batch=2,
        rank=0,
        world=1,
        masking=Masking(rate=0),
        max_n_run=config.data.max_n_run,
        boundaries=source,
    )
    assert batch.locations is not None
    given = None if batch.boundaries is None else batch.boundaries[-1:]
    return batch.input_ids[-1:], given, int(batch.locations.contig[-1]), int(batch.locations.start[-1])
