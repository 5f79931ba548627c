"""Random bits on the device, as a pure function of token ids: SplitMix64 (Steele, Lea and Flood 2014) in int64.

Shapes: T packed positions, S sequences.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ldarnet.ops import Packing

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift int64 right by ``bits`` and fill with zeros, as for unsigned integers."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def random_bits(keys: Tensor, counters: Tensor, bits: int = 63) -> Tensor:
    """Uniform random integers of ``bits`` bits for each key and counter, all int64 of one shape."""
    return _shift(_mix((counters + 1) * _GOLDEN + keys), 64 - bits)


def sequence_keys(ids_T: Tensor, packing: Packing, seed: int) -> Tensor:
    """Hash the tokens of each sequence and the seed to a non-negative key, (S,) int64."""
    terms_T = random_bits(random_bits(ids_T, ids_T.new_full((), seed)), packing.position)
    before = F.pad(terms_T.cumsum(0), (1, 0))[packing.starts]  # sums of int64 wrap around, and are exact
    return random_bits(before.diff(), ids_T.new_full((), seed))


def prefix_keys(ids_T: Tensor, packing: Packing, seed: int) -> Tensor:
    """Hash the tokens of each sequence up to and including each position, and the seed, to a key, (T,) int64.

    The key of the last position is that of `sequence_keys`.
    """
    sums_T = random_bits(random_bits(ids_T, ids_T.new_full((), seed)), packing.position).cumsum(0)
    before = F.pad(sums_T, (1, 0))[packing.starts]
    return random_bits(sums_T - before[packing.sequence], ids_T.new_full((), seed))
