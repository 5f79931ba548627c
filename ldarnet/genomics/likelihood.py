"""Masked log-likelihood and entropy of each base.

Each pass masks every M-th base, so M passes mask each base once. The model then predicts a distribution over A, C, G
and T. Which bases are masked together depends on their positions on the contig only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics.boundaries import STRAND_NAMES, Strands
from ldarnet.genomics.forward import run_model
from ldarnet.genomics.scoring import WindowInput, WindowScores
from ldarnet.model import LDARNetForMaskedLM

MASKED_EVERY = 8
"""Default M: one base in eight is masked, close to the share of [MASK] in pretraining (0.15 * 0.8)."""


class LikelihoodScorer:
    """Log-likelihood of each base and entropy of its distribution, in nats; a `WindowScorer`.

    Only A, C, G and T have values. The average over strands is that of their distributions.
    """

    def __init__(self, model: LDARNetForMaskedLM, strands: Strands, masked_every: int = MASKED_EVERY) -> None:
        """Score with a masked language model.

        Raises:
            UserError: the model is causal.
        """
        if model.config.causal:
            raise UserError(
                "this model is causal: it predicts the next base, not masked bases; use a model that is not causal, or "
                "boundaries without likelihoods"
            )
        self._model, self._strands, self._masked_every = model, strands, masked_every
        self.signals = tuple(
            f"{name}{suffix}" for name in ("log_likelihood", "entropy") for suffix in STRAND_NAMES[strands]
        )
        self.chunks: dict[str, str] = {}

    def __call__(self, windows: Sequence[WindowInput]) -> list[WindowScores]:
        """Score a batch of windows.

        Raises:
            UserError: a predicted probability is not finite.
        """
        strands = [self._log_probabilities(windows, reverse=False)]
        if self._strands != "forward":
            strands.append(self._log_probabilities(windows, reverse=True))
        if self._strands == "average":
            with np.errstate(invalid="ignore"):  # bases other than A, C, G and T are NaN
                strands = [[np.logaddexp(p, q) - np.log(2) for p, q in zip(*strands, strict=True)]]
        return [self._scores(window.ids, [strand[row] for strand in strands]) for row, window in enumerate(windows)]

    def _log_probabilities(self, windows: Sequence[WindowInput], *, reverse: bool) -> list[np.ndarray]:
        """Log-probabilities of A, C, G and T at each base of each window, (L, 4) float64; of the forward strand."""
        found = [np.full((len(window.ids), 4), np.nan) for window in windows]
        for remainder in range(self._masked_every):
            masked = [masked_positions(window, remainder, self._masked_every) for window in windows]
            batch = [np.where(mask, np.uint8(alphabet.MASK), w.ids) for w, mask in zip(windows, masked, strict=True)]
            if reverse:
                batch = [alphabet.reverse_complement(ids) for ids in batch]
            logits = run_model(self._model, batch).logits[:, :, : alphabet.N].double().cpu().numpy()
            for result, mask, row in zip(found, masked, logits, strict=True):
                predicted = row[: len(mask)]
                if reverse:
                    predicted = predicted[::-1, ::-1]  # the complements of A, C, G, T are T, G, C, A
                result[mask] = log_softmax(predicted[mask], axis=1)
                if not np.isfinite(result[mask]).all():
                    raise UserError("a predicted probability is NaN or infinite; choose another model or checkpoint")
        return found

    def _scores(self, ids: np.ndarray, strands: Sequence[np.ndarray]) -> WindowScores:
        index = np.minimum(ids, alphabet.T).astype(np.int64)[:, None]  # positions with N are NaN in any column
        likelihoods = [np.take_along_axis(logs, index, axis=1)[:, 0] for logs in strands]
        entropies = [-(np.exp(logs) * logs).sum(1) for logs in strands]
        values = [value.astype(np.float32) for value in (*likelihoods, *entropies)]
        return WindowScores(dict(zip(self.signals, values, strict=True)), {})


def masked_positions(window: WindowInput, remainder: int, every: int) -> np.ndarray:
    """Bases of a window that one pass masks, (L,) bool: those at positions with this remainder modulo ``every``."""
    positions = window.start + np.arange(len(window.ids))
    return (positions % every == remainder) & (window.ids < alphabet.N)
