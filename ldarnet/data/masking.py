"""Masking for masked language modeling.

Masks are drawn in base space: they are a pure function of (content, seed, stream position of the window, index of the
base in the window), whatever the model reads. Masks of spans are drawn per span instead of per base.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ldarnet.alphabet import IGNORE_INDEX, MASK, N
from ldarnet.data.counter_rng import counter_hash, stream_key
from ldarnet.errors import UserError

if TYPE_CHECKING:
    from ldarnet.tokenization import Tokenization

_SLAB = 2**15  # bases processed together, so that temporaries fit into the CPU cache


@dataclass(frozen=True, slots=True)
class MaskedWindows:
    """Masked windows as a model reads them: b windows of T positions, which are bases or tokens.

    Attributes:
        input_ids: (b, T), uint8 for bases and int32 for tokens.
        labels: (b, T), int8 for bases and int32 for tokens: the original id at targets, -100 elsewhere.
        target_bases: (b,) int64, number of bases of the targets of each window.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    target_bases: np.ndarray


@dataclass(frozen=True, slots=True)
class Masking:
    """Selects target positions and the tokens that replace their bases.

    A window consists of spans of ``span`` bases, aligned to its first base: position p is in span ``p // span``. The
    bases of a span are targets together, with probability ``rate``. The targets of a span are replaced together: with
    [MASK] with probability ``mask``, with uniformly and independently drawn bases with probability ``random``, and
    otherwise left unchanged. A span that contains N or padding, or that the end of the window cuts short, is never a
    target. The probabilities have a resolution of 1/65,536.

    With a tokenizer, `windows` converts masked bases to tokens; the targets in base space are those of `apply`.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    seed: int = 0
    span: int = 1
    tokenizer: "Tokenization | None" = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a probability is outside 0 to 1, ``mask + random`` is above 1, or ``span`` is below 1.
        """
        for name in ("rate", "mask", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"masking: {name}={getattr(self, name)} must be from 0 to 1")
        if self.mask + self.random > 1 + 1e-9:
            raise UserError(f"masking: the sum of mask={self.mask} and random={self.random} must be at most 1")
        if self.span < 1:
            raise UserError(f"masking: span={self.span} must be at least 1")

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

    def windows(self, ids: np.ndarray, fingerprint: str, positions: np.ndarray, stream: str = "train") -> MaskedWindows:
        """Mask windows as `apply` does, and tokenize them if there is a tokenizer."""
        inputs, labels = self.apply(ids, fingerprint, positions, stream)
        if self.tokenizer is None:
            return MaskedWindows(inputs, labels, (labels != IGNORE_INDEX).sum(axis=1))
        keys = counter_hash(stream_key(fingerprint, self.seed, "token", stream), positions)
        tokens, targets = self.tokenizer.mask(inputs, labels, partial(_bits, keys))
        bases = self.tokenizer.lengths[np.where(targets == IGNORE_INDEX, MASK, targets)]
        return MaskedWindows(tokens, targets, bases.sum(axis=1))

    def _corrupt(self, inputs: np.ndarray, labels: np.ndarray, keys: np.ndarray) -> None:
        """Mask ``inputs`` and fill ``labels``, (r, L) each, in place; ``keys`` has shape (r, 1)."""
        length = inputs.shape[1]
        # Compare 16 random bits per span with three ascending limits. Below the first: [MASK]; below the second: random
        # bases; below the third: unchanged targets; otherwise: no target.
        limits = (round(2**16 * self.rate * share) for share in (self.mask, self.mask + self.random, 1))
        spans = length // self.span
        draws = counter_hash(keys, np.arange((spans + 3) // 4)).astype("<u8", copy=False).view("<u2")[:, :spans]
        known = inputs < N
        if self.span > 1:
            draws, known = self._by_base(draws, length, fill=2**16 - 1), self._whole(known)
        masked, changed, target = ((draws < limit) & known for limit in limits)
        # Here and below, multiply and add instead of np.where, which is ten times as slow.
        labels += (inputs.view(np.int8) - np.int8(IGNORE_INDEX)) * target.view(np.int8)
        row, column = np.divmod(np.flatnonzero(changed & ~masked), length)
        # Counters from 2**32 on are independent of the draws above.
        inputs[row, column] = counter_hash(keys[row, 0], column + 2**32) & np.uint64(3)
        inputs += (np.uint8(MASK) - inputs) * masked.view(np.uint8)

    def _whole(self, known: np.ndarray) -> np.ndarray:
        """Positions in complete spans whose bases are all known, (r, L) bool."""
        complete = known[:, : known.shape[1] // self.span * self.span]
        whole = np.logical_and.reduce(complete.reshape(len(known), -1, self.span), axis=2)
        return self._by_base(whole, known.shape[1], fill=False)

    def _by_base(self, spans: np.ndarray, length: int, fill: int) -> np.ndarray:
        """Repeat a value per span, (r, spans), for each of its bases, (r, L); ``fill`` is the value after them."""
        by_base = np.full((len(spans), length), fill, dtype=spans.dtype)
        by_base[:, : spans.shape[1] * self.span] = np.repeat(spans, self.span, axis=1)
        return by_base


def _bits(keys: np.ndarray, window: int, positions: np.ndarray) -> np.ndarray:
    return counter_hash(keys[window], positions)
