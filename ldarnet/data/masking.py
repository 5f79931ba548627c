"""Masked-language-model corruption: every choice is a pure function of (content, seed, position, base)."""

from dataclasses import dataclass

import numpy as np

from ldarnet.alphabet import MASK, NOT_SCORED, N
from ldarnet.data.order import counter_hash, stream_key
from ldarnet.errors import UserError


@dataclass(frozen=True, slots=True)
class Masking:
    """Which bases are scored and what the model sees in their place.

    Each A, C, G or T is scored with probability ``rate``; N and padding never are. A scored base is shown as [MASK]
    with probability ``mask``, as a base drawn evenly from A, C, G, T with probability ``random``, and else as it is.
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
            input ids (b, L) and labels (b, L), both int64; a label is the original id, or -100 where it is not scored.
        """
        keys = counter_hash(stream_key(fingerprint, self.seed, "mask", stream), positions)
        pairs = counter_hash(keys[:, None], np.arange((ids.shape[1] + 1) // 2))
        choice = pairs.astype("<u8", copy=False).view("<u4")[:, : ids.shape[1]]
        scored = np.nonzero((choice < _share(self.rate)) & (ids < N))
        originals = ids[scored]
        labels = np.full(ids.shape, NOT_SCORED, dtype=np.int64)
        labels[scored] = originals
        # A second draw of the same key, for scored bases only; counters of the first are below 2**32.
        bits = counter_hash(keys[scored[0]], scored[1] + 2**32)
        fate = bits >> np.uint64(32)
        drawn = np.where(fate < _share(self.mask + self.random), bits & np.uint64(3), originals)
        inputs = ids.astype(np.int64)
        inputs[scored] = np.where(fate < _share(self.mask), np.uint64(MASK), drawn)
        return inputs, labels


def _share(probability: float) -> np.uint64:
    """How many of the 32-bit values stand for a probability."""
    return np.uint64(min(round(probability * 2**32), 2**32))
