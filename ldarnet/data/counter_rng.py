"""Random numbers and permutations as pure functions: nothing is drawn in turn.

`counter_hash` is SplitMix64 (Steele, Lea and Flood 2014) read at any place of its stream; `permute` is the generalised
Feistel cipher of Black and Rogaway (2002), a keyed bijection of ``range(n)`` that stores nothing.
"""

import hashlib

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


def below(bits: np.ndarray, n: np.ndarray | int) -> np.ndarray:
    """Random bits (k,) uint64 as integers of ``range(n)``, int64; ``n`` (k,) or one for all."""
    return (bits % np.asarray(n).astype(np.uint64)).astype(np.int64)


def permute(values: np.ndarray, n: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """Where keyed permutations of ``range(n)`` send values.

    Args:
        values: (k,) integers in ``range(n)``.
        n: size of the permuted range, at least 1 and below 2**52: (k,), or one for all.
        keys: (k,) uint64, the key of each value; equal keys and sizes give one and the same permutation.

    Returns:
        (k,) int64 in ``range(n)``.
    """
    sizes = np.broadcast_to(np.asarray(n, dtype=np.uint64), values.shape)
    rows = np.sqrt(sizes - _ONE).astype(np.uint64) + _ONE
    columns = (sizes + rows - _ONE) // rows
    result = _feistel(values.astype(np.uint64), rows, columns, keys)
    # A value that lands in the few places beyond n is sent on until it lands inside: still a bijection of range(n).
    while len(out := np.flatnonzero(result >= sizes)):
        result[out] = _feistel(result[out], rows[out], columns[out], keys[out])
    return result.astype(np.int64)


def _feistel(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, keys: np.ndarray) -> np.ndarray:
    row, column = values // columns, values % columns
    for row_keys, column_keys in counter_hash(keys, np.arange(2 * _ROUNDS)[:, None]).reshape(_ROUNDS, 2, -1):
        row = (row + (counter_hash(row_keys, column) >> _ONE)) % rows
        column = (column + (counter_hash(column_keys, row) >> _ONE)) % columns
    return row * columns + column
