"""Masking for masked language modeling.

Masks are a pure function of (content, seed, stream position of the window, index of the base in the window).
"""

from dataclasses import dataclass

import numpy as np

from ldarnet.alphabet import IGNORE_INDEX, MASK, N
from ldarnet.data.counter_rng import counter_hash, stream_key
from ldarnet.errors import UserError

_SLAB = 2**15  # bases processed together, so that temporaries fit into the CPU cache


@dataclass(frozen=True, slots=True)
class Masking:
    """Selects target positions and the tokens that replace their bases.

    Each A, C, G or T is a target with probability ``rate``; N and padding are never targets. A target is replaced with
    [MASK] with probability ``mask``, with a uniformly drawn base with probability ``random``, and otherwise left
    unchanged. The probabilities have a resolution of 1/65,536.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a probability is outside 0 to 1, or ``mask + random`` is above 1.
        """
        for name in ("rate", "mask", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"masking: {name}={getattr(self, name)} must be from 0 to 1")
        if self.mask + self.random > 1 + 1e-9:
            raise UserError(f"masking: the sum of mask={self.mask} and random={self.random} must be at most 1")

    def apply(
        self, ids: np.ndarray, fingerprint: str, positions: np.ndarray, stream: str = "train"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask windows.

        Args:
            ids: (b, L) uint8 token ids.
            fingerprint: fingerprint of the shard set of the windows.
            positions: (b,) integers, the position of each window in its stream; equal positions give equal masks.
            stream: name of the stream; streams with different names have independent masks.

        Returns:
            Input ids, (b, L) uint8; and labels, (b, L) int8: the original id at target positions, -100 elsewhere.
        """
        keys = counter_hash(stream_key(fingerprint, self.seed, "mask", stream), positions)
        inputs, labels = ids.copy(), np.full(ids.shape, IGNORE_INDEX, dtype=np.int8)
        rows = max(1, _SLAB // max(ids.shape[1], 1))
        for begin in range(0, len(ids), rows):
            slab = slice(begin, begin + rows)
            self._corrupt(inputs[slab], labels[slab], keys[slab, None])
        return inputs, labels

    def _corrupt(self, inputs: np.ndarray, labels: np.ndarray, keys: np.ndarray) -> None:
        """Mask ``inputs`` and fill ``labels``, (r, L) each, in place; ``keys`` has shape (r, 1)."""
        length = inputs.shape[1]
        # Compare 16 random bits per base with three ascending limits. Below the first: [MASK]; below the second: a
        # random base; below the third: an unchanged target; otherwise: no target.
        limits = (round(2**16 * self.rate * share) for share in (self.mask, self.mask + self.random, 1))
        draws = counter_hash(keys, np.arange((length + 3) // 4)).astype("<u8", copy=False).view("<u2")[:, :length]
        masked, changed, target = ((draws < limit) & (inputs < N) for limit in limits)
        # Here and below, multiply and add instead of np.where, which is ten times as slow.
        labels += (inputs.view(np.int8) - np.int8(IGNORE_INDEX)) * target.view(np.int8)
        row, column = np.divmod(np.flatnonzero(changed & ~masked), length)
        # Counters from 2**32 on are independent of the draws above.
        inputs[row, column] = counter_hash(keys[row, 0], column + 2**32) & np.uint64(3)
        inputs += (np.uint8(MASK) - inputs) * masked.view(np.uint8)
