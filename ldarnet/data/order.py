"""Random numbers and permutations as pure functions: nothing is drawn in turn.

`counter_hash` is SplitMix64 (Steele, Lea and Flood 2014) read at any place of its stream; `permute` is the generalised
Feistel cipher of Black and Rogaway (2002), a keyed bijection of ``range(n)`` that stores nothing.
"""

import hashlib
import math

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
_ROUNDS = 3


def stream_key(*parts: int | str) -> np.uint64:
    """A 64-bit key for one independent stream, from whatever names it (seed, fingerprint, purpose)."""
    return np.frombuffer(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), dtype="<u8")[0]


def counter_hash(key: np.ndarray | np.uint64, counter: np.ndarray) -> np.ndarray:
    """64 random bits, uint64, for each counter (integers) of each key (uint64); the two broadcast."""
    z = (counter.astype(np.uint64, copy=False) + _ONE) * _GOLDEN + key
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def permute(values: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of ``range(n)`` sends each value.

    Args:
        values: (k,) integers in ``range(n)``.
        n: size of the permuted range, at least 1.
        keys: (k,) uint64, the key of each value; equal keys give one and the same permutation.

    Returns:
        (k,) int64 in ``range(n)``.
    """
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    result = _feistel(np.asarray(values, dtype=np.uint64), rows, columns, keys)
    # A value that lands in the few places beyond n is sent on until it lands inside: still a bijection of range(n).
    while len(outside := np.flatnonzero(result >= n)):
        result[outside] = _feistel(result[outside], rows, columns, keys[outside])
    return result.astype(np.int64)


def _feistel(values: np.ndarray, rows: int, columns: int, keys: np.ndarray) -> np.ndarray:
    r, c = np.uint64(rows), np.uint64(columns)
    row, column = values // c, values % c
    for row_keys, column_keys in counter_hash(keys, np.arange(2 * _ROUNDS)[:, None]).reshape(_ROUNDS, 2, -1):
        row = (row + (counter_hash(row_keys, column) >> _ONE)) % r
        column = (column + (counter_hash(column_keys, row) >> _ONE)) % c
    return row * c + column
