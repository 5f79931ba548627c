"""Targets of next-base prediction: the inputs are not masked, and each position predicts the base or token after it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ldarnet.alphabet import IGNORE_INDEX, N
from ldarnet.data.masking import MaskedWindows
from ldarnet.tokenization.base import FIRST

if TYPE_CHECKING:
    from ldarnet.tokenization import Tokenization


@dataclass(frozen=True, slots=True)
class NextBase:
    """Prediction of the next base or, with a tokenizer, of the next token.

    The first base of a window is not predicted, and N and padding are not targets.
    """

    tokenizer: "Tokenization | None" = None

    def windows(self, ids: np.ndarray, fingerprint: str, positions: np.ndarray, stream: str = "train") -> MaskedWindows:
        """Label windows, (b, L) uint8 token ids; the result depends on nothing else.

        The label of a position is the id at the next position, or -100 if that is not a target.
        """
        del fingerprint, positions, stream
        if self.tokenizer is None:
            labels = np.full(ids.shape, IGNORE_INDEX, dtype=np.int8)
            labels[:, :-1] = np.where(ids[:, 1:] < N, ids[:, 1:].view(np.int8), np.int8(IGNORE_INDEX))
            return MaskedWindows(ids, labels, (labels != IGNORE_INDEX).sum(axis=1))
        untargeted = np.full(ids.shape, IGNORE_INDEX, dtype=np.int8)
        tokens, labels = self.tokenizer.mask(ids, untargeted, _no_bits)
        following = tokens[:, 1:]
        known = (following < N) | (following >= FIRST)
        labels[:, :-1] = np.where(known, following, IGNORE_INDEX)
        return MaskedWindows(tokens, labels, (self.tokenizer.lengths[following] * known).sum(axis=1))


def _no_bits(window: int, positions: np.ndarray) -> np.ndarray:
    raise AssertionError("no token is masked, so no random token is drawn")
