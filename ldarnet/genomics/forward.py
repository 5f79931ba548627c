"""Forward passes over batches of sequences of any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldarnet import alphabet
from ldarnet.model import LDARNetForMaskedLM, LDARNetModel


@dataclass(frozen=True, slots=True)
class StageBoundaries:
    """Boundaries of a sequence in one stage.

    Attributes:
        positions: (n,) int64, bases that the stage sees, ascending: all bases in the outermost stage, and the first
            bases of the chunks of the previous stage in inner stages.
        probability: (n,) float32, boundary probabilities.
        mask: (n,) bool, whether each position is a boundary.
    """

    positions: np.ndarray
    probability: np.ndarray
    mask: np.ndarray


def batch_boundaries(
    model: LDARNetModel | LDARNetForMaskedLM, batch: Sequence[np.ndarray]
) -> list[list[StageBoundaries]]:
    """Compute the boundaries of a batch of sequences.

    The model runs on its own device, in evaluation mode and without gradients. Its previous mode is restored.

    Args:
        model: the model.
        batch: token ids of each sequence, (L,) of any integer type, L >= 1, without padding.

    Returns:
        For each sequence, the boundaries of each stage with a router, outermost first; empty without routers.
    """
    return stage_boundaries(run_model(model, batch), batch)


def stage_boundaries(output: Any, batch: Sequence[np.ndarray]) -> list[list[StageBoundaries]]:
    """Boundaries of a batch from the output of the model; see `batch_boundaries`."""
    tracks: list[list[StageBoundaries]] = [[] for _ in batch]
    positions = [np.arange(len(ids)) for ids in batch]
    for stage in output.boundaries:
        probability, mask = stage.probability.float().cpu().numpy(), stage.mask.cpu().numpy()
        for row, at in enumerate(positions):
            found = StageBoundaries(at, probability[row, : len(at)], mask[row, : len(at)])
            tracks[row].append(found)
            positions[row] = at[found.mask]
    return tracks


def run_model(model: Any, batch: Sequence[np.ndarray], **options: Any) -> Any:
    """Run a model on sequences of token ids, padded; in evaluation mode and without gradients. Return its output.

    ``options`` are arguments of the model's ``forward``.
    """
    padded = np.full((len(batch), max(map(len, batch))), alphabet.PAD, np.int64)
    for row, ids in zip(padded, batch, strict=True):
        row[: len(ids)] = ids
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(torch.from_numpy(padded).to(model.device), **options)
    finally:
        model.train(was_training)
