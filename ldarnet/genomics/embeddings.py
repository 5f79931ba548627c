"""Embeddings of bases: the hidden states of one layer, at every base.

In inner stages, hidden states belong to chunks. A base has the state of the chunk that contains it.

Shapes: L bases of a window, D width of the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics.boundaries import Placed, average, check_reads_bases, check_stages, flipped, placed_boundaries
from ldarnet.genomics.forward import run_model
from ldarnet.model import LDARNetModel


@dataclass(frozen=True, slots=True)
class WindowEmbedding:
    """Embeddings of the bases of a window, and the chunks of one stage if they are requested.

    Attributes:
        states: (L, D) float32.
        probability: (L,) float32, boundary probability; NaN where there is none.
        starts: (L,) bool, first positions of chunks.
    """

    states: np.ndarray
    probability: np.ndarray
    starts: np.ndarray


class Embedder:
    """Computes embeddings of windows with a model.

    Attributes:
        layer: index of the layer in `hidden_states` of the model, not negative.
        width: D.
    """

    def __init__(
        self, model: LDARNetModel, layer: int = -1, strands: Literal["average", "forward"] = "average", stage: int = 0
    ) -> None:
        """Choose a layer.

        Args:
            model: the model.
            layer: index in `hidden_states` of the model; negative numbers count from the last layer.
            strands: average the states of both strands, or read the forward strand alone.
            stage: stage whose chunks are returned, if the model has chunks.

        Raises:
            UserError: the model has no such layer or stage, or does not read bases.
        """
        config = model.config
        check_reads_bases(config)
        layers = 2 * config.num_stages
        if not -layers <= layer < layers:
            raise UserError(f"--layer {layer}: no such layer; choose 0 (embeddings) to {layers - 1} (last layer)")
        if config.num_stages > 1:
            check_stages(model, [stage])
        self._model, self._strands, self._stage = model, strands, stage
        self.layer = layer % layers
        self._depth = min(self.layer - 1, layers - 1 - self.layer) if self.layer else 0
        self.width: int = config.d_model[self._depth]

    def __call__(self, batch: Sequence[np.ndarray]) -> list[WindowEmbedding]:
        """Compute the embeddings of a batch of windows.

        Args:
            batch: token ids of each window, (L,) uint8.

        Raises:
            UserError: a hidden state or a boundary probability is not finite.
        """
        forward = self._run(batch, reverse=False)
        if self._strands == "forward":
            return [self._embedding(states, tracks) for states, tracks in forward]
        found: list[WindowEmbedding] = []
        reverse = self._run([alphabet.reverse_complement(ids) for ids in batch], reverse=True)
        for (states, tracks), (other, others) in zip(forward, reverse, strict=True):
            both = average(self._model.config, tracks, others)
            found.append(self._embedding((states + other) / 2, both))
        return found

    def _run(self, batch: Sequence[np.ndarray], *, reverse: bool) -> list[tuple[np.ndarray, list[Placed]]]:
        """States of the bases, and boundaries of all stages, of each window, at positions on the forward strand."""
        output: Any = run_model(self._model, batch, output_hidden_states=True)
        tracks = placed_boundaries(output, batch, reverse=False)
        hidden = output.hidden_states[self.layer]
        states: list[np.ndarray] = []
        for row, window in enumerate(tracks):
            values = hidden[row].index_select(
                0, torch.from_numpy(self._positions(len(batch[row]), window)).to(hidden.device)
            )
            states.append(values.float().cpu().numpy())
        if not all(np.isfinite(values).all() for values in states):
            raise UserError("a hidden state is NaN or infinite; choose another model or checkpoint")
        if reverse:
            states = [values[::-1] for values in states]
            tracks = [[flipped(*track) for track in window] for window in tracks]
        return list(zip(states, tracks, strict=True))

    def _positions(self, length: int, tracks: Sequence[Placed]) -> np.ndarray:
        """Position in the stage of the layer of each base, (L,) int64."""
        if not self._depth:
            return np.arange(length)
        # A boundary of a stage is a boundary of the stages before it, so chunks are counted at bases.
        return np.cumsum(tracks[self._depth - 1][1]) - 1

    def _embedding(self, states: np.ndarray, tracks: Sequence[Placed]) -> WindowEmbedding:
        if not tracks:
            return WindowEmbedding(states, np.full(len(states), np.nan, np.float32), np.zeros(len(states), bool))
        return WindowEmbedding(states, *tracks[self._stage])
