"""Masked-language-model corruption: every choice is a pure function of (content, seed, position, base)."""

from dataclasses import dataclass

import numpy as np

from ldarnet.alphabet import MASK, NOT_SCORED, N
from ldarnet.data.counter_rng import counter_hash, stream_key
from ldarnet.errors import UserError

_SLAB = 2**15  # bases worked on together: what that needs stays in the cache of the processor


@dataclass(frozen=True, slots=True)
class Masking:
    """Which bases are scored and what the model sees in their place.

    Each A, C, G or T is scored with probability ``rate``; N and padding never are. A scored base is shown as [MASK]
    with probability ``mask``, as a base drawn evenly from A, C, G, T with probability ``random``, and else as it is.
    The probabilities hold to 1 in 131,072 of all bases.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a probability is outside 0 to 1, or ``mask + random`` above 1.
        """
        for name in ("rate", "mask", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"masking {name} {getattr(self, name)}: it must be from 0 to 1")
        if self.mask + self.random > 1 + 1e-9:
            raise UserError(f"masking mask {self.mask} + random {self.random}: together they must be at most 1")

    def apply(
        self, ids: np.ndarray, fingerprint: str, positions: np.ndarray, stream: str = "train"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Corrupt windows.

        Args:
            ids: (b, L) uint8 token ids.
            fingerprint: of the shard set they come from.
            positions: (b,) integers, the place of each window in its stream; equal places give equal masks.
            stream: name of the stream; differently named streams are independent.

        Returns:
            input ids (b, L) uint8, and labels (b, L) int8: the original id, or -100 where it is not scored.
        """
        keys = counter_hash(stream_key(fingerprint, self.seed, "mask", stream), positions)
        inputs, labels = ids.copy(), np.full(ids.shape, NOT_SCORED, dtype=np.int8)
        rows = max(1, _SLAB // max(ids.shape[1], 1))
        for begin in range(0, len(ids), rows):
            slab = slice(begin, begin + rows)
            self._corrupt(inputs[slab], labels[slab], keys[slab, None])
        return inputs, labels

    def _corrupt(self, inputs: np.ndarray, labels: np.ndarray, keys: np.ndarray) -> None:
        """Corrupt some windows, (r, L), in place."""
        length = inputs.shape[1]
        # 16 bits a base: below the first limit it is shown as [MASK], then as one drawn, and below the last as it is.
        limits = (round(2**16 * self.rate * share) for share in (self.mask, self.mask + self.random, 1))
        draws = counter_hash(keys, np.arange((length + 3) // 4)).astype("<u8", copy=False).view("<u2")[:, :length]
        masked, changed, scored = ((draws < limit) & (inputs < N) for limit in limits)
        # Sums of products, here and below: numpy needs ten times as long to choose by a condition.
        labels += (inputs.view(np.int8) - np.int8(NOT_SCORED)) * scored.view(np.int8)
        row, column = np.divmod(np.flatnonzero(changed & ~masked), length)
        # Counters of the first draw are below 2**32.
        inputs[row, column] = counter_hash(keys[row, 0], column + 2**32) & np.uint64(3)
        inputs += (np.uint8(MASK) - inputs) * masked.view(np.uint8)
