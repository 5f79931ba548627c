"""Boundary probabilities and chunks of windows, of one strand, of both, or averaged over both.

A boundary lies between two bases, and is reported at the base to its right on the forward strand. On the reverse
complement of a window of L bases, the boundary before base j is the boundary before base L - j of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics.forward import StageBoundaries, run_model, stage_boundaries
from ldarnet.genomics.scoring import WindowInput, WindowScores
from ldarnet.model import LDARNetModel
from ldarnet.model.chunking.given import GivenBoundaries
from ldarnet.model.chunking.selection import THRESHOLD

Strands = Literal["average", "both", "forward"]
STRAND_NAMES: dict[Strands, tuple[str, ...]] = {
    "average": ("",),
    "both": ("_forward", "_reverse"),
    "forward": ("_forward",),
}
"""Strands option -> suffixes of the names of signals and chunks."""

Placed = tuple[np.ndarray, np.ndarray]
"""Boundary probability, (L,) float32, NaN where there is none; and first positions of chunks, (L,) bool."""


class BoundaryScorer:
    """Boundaries of the stages of a model; a `ldarnet.genomics.scoring.WindowScorer`.

    Averaged probabilities are selected in the same way as those of one strand: the positions above the threshold or,
    for ``selection=top_k``, the most probable ones of a window. A stage has values only at the boundaries of the stage
    before it.
    """

    def __init__(self, model: LDARNetModel, strands: Strands, stages: Sequence[int] | None = None) -> None:
        """Score the given stages, or all.

        Raises:
            UserError: the model has no stage with chunks, or not the given ones.
        """
        stages = check_stages(model, stages)
        self._model, self._strands = model, strands
        self._stages = stages
        suffixes = STRAND_NAMES[strands]
        self.signals = tuple(f"boundary_stage{stage}{suffix}" for stage in stages for suffix in suffixes)
        self.chunks = {
            f"chunks_stage{stage}{suffix}": f"boundary_stage{stage}{suffix}" for stage in stages for suffix in suffixes
        }

    def __call__(self, windows: Sequence[WindowInput]) -> list[WindowScores]:
        """Score a batch of windows.

        Raises:
            UserError: a boundary probability is not finite.
        """
        batch = [window.ids for window in windows]
        forward = self._run(batch, reverse=False)
        if self._strands == "forward":
            return [self._scores([track]) for track in forward]
        reverse = self._run([alphabet.reverse_complement(ids) for ids in batch], reverse=True)
        if self._strands == "both":
            return [self._scores(pair) for pair in zip(forward, reverse, strict=True)]
        return [self._scores([average(self._model.config, *pair)]) for pair in zip(forward, reverse, strict=True)]

    def _run(self, batch: Sequence[np.ndarray], *, reverse: bool) -> list[list[Placed]]:
        return placed_boundaries(run_model(self._model, batch), batch, reverse=reverse)

    def _scores(self, strands: Sequence[list[Placed]]) -> WindowScores:
        tracks = [strand[stage] for stage in self._stages for strand in strands]
        signals = {name: p for name, (p, _) in zip(self.signals, tracks, strict=True)}
        return WindowScores(signals, {name: starts for name, (_, starts) in zip(self.chunks, tracks, strict=True)})


def placed_boundaries(output: Any, batch: Sequence[np.ndarray], *, reverse: bool) -> list[list[Placed]]:
    """Boundaries of each window and stage from the output of the model, at positions on the forward strand.

    Args:
        output: output of the model.
        batch: token ids that the model read, without padding.
        reverse: whether it read the reverse complements.

    Raises:
        UserError: a boundary probability is not finite.
    """
    found = stage_boundaries(output, batch)
    if not all(np.isfinite(stage.probability).all() for stages in found for stage in stages):
        raise UserError("a boundary probability is NaN or infinite; choose another model or checkpoint")
    placed = [[_placed(stage, len(ids)) for stage in stages] for ids, stages in zip(batch, found, strict=True)]
    return [[flipped(*track) for track in tracks] for tracks in placed] if reverse else placed


def check_stages(model: LDARNetModel, stages: Sequence[int] | None = None) -> Sequence[int]:
    """Return the given stages of a model, or all stages with chunks.

    Raises:
        UserError: the model has none, or not the given ones.
    """
    routers = model.config.num_stages - 1
    if routers == 0:
        raise UserError("this model has a single stage and no chunks; use a model with at least two stages")
    for stage in stages or ():
        if stage >= routers:
            known = "stage 0; use stage 0" if routers == 1 else f"stages 0 to {routers - 1}; use one of these stages"
            raise UserError(f"stage {stage}: this model has chunks only at {known}")
    return range(routers) if stages is None else stages


def check_reads_bases(config: Any) -> None:
    """Check that a model reads single bases and nothing else.

    Raises:
        UserError: it reads the tokens of a fixed tokenizer, or boundaries from a file.
    """
    if config.tokenizer is not None:
        raise UserError(
            f"this model reads the tokens of a fixed tokenizer (method {config.tokenizer['method']}), not bases; use a "
            "model with learned tokenization"
        )
    method = config.chunking_method
    if issubclass(method, GivenBoundaries) and method.finder(config.chunking) is None:
        raise UserError(
            f"this model reads its boundaries from a file (chunking method {config.chunking['method']}); use a model "
            "that finds them in the sequence"
        )


def average(config: Any, forward: Sequence[Placed], reverse: Sequence[Placed]) -> list[Placed]:
    """Average the probabilities of both strands, and select boundaries from the result.

    Args:
        config: configuration of the model.
        forward: boundaries of each stage, outermost first.
        reverse: those of the reverse complement, at positions on the forward strand.

    Returns:
        Boundaries of each stage. Where only one strand has a probability, it counts alone.
    """
    tracks: list[Placed] = []
    for (p, _), (q, _) in zip(forward, reverse, strict=True):
        mean = np.where(np.isnan(p), q, np.where(np.isnan(q), p, (p + q) / 2))
        if tracks:
            mean = np.where(tracks[-1][1], mean, np.float32(np.nan))
        tracks.append((mean, _selected(config, mean)))
    return tracks


def _selected(config: Any, p: np.ndarray) -> np.ndarray:
    """Positions of boundaries by the selection rule of the model, (L,) bool; without one, by threshold."""
    if config.chunking.get("selection") != "top_k":
        return p > THRESHOLD
    count = int(np.ceil((~np.isnan(p)).sum() / config.target_ratio))
    mask = np.zeros(len(p), bool)
    mask[np.argsort(-p, kind="stable")[:count]] = True  # NaN is sorted last
    return mask


def _placed(stage: StageBoundaries, length: int) -> Placed:
    probability, mask = np.full(length, np.nan, np.float32), np.zeros(length, bool)
    probability[stage.positions], mask[stage.positions] = stage.probability, stage.mask
    return probability, mask


def flipped(probability: np.ndarray, mask: np.ndarray) -> Placed:
    """Move boundaries of the reverse complement to positions on the forward strand; position 0 has none."""
    return np.append(np.float32(np.nan), probability[:0:-1]), np.append(False, mask[:0:-1])
