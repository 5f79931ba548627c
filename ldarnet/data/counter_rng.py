"""Counter-based random numbers and permutations: pure functions of key and counter, without generator state.

`counter_hash` is SplitMix64 (Steele, Lea and Flood 2014) evaluated at any index of its stream; `permute` is the
generalized Feistel cipher of Black and Rogaway (2002), a keyed bijection of ``range(n)``.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)
_ROUNDS = 3


def stream_key(*parts: int | str) -> np.uint64:
    """Derive the 64-bit key of an independent random stream from ``parts``, such as seed, fingerprint and purpose."""
    return np.frombuffer(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), dtype="<u8")[0]


def counter_hash(key: np.ndarray | np.uint64, counter: np.ndarray) -> np.ndarray:
    """Compute 64 random bits (uint64) for each key (uint64) and counter (integer); keys and counters are broadcast."""
    z = (counter.astype(np.uint64, copy=False) + _ONE) * _GOLDEN + key
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def below(bits: np.ndarray, n: np.ndarray | int) -> np.ndarray:
    """Map random bits to random integers in ``range(n)``.

    Args:
        bits: (k,) uint64, the random bits.
        n: size of the range; one integer or (k,).

    Returns:
        (k,) int64 in ``range(n)``.
    """
    return (bits % np.asarray(n).astype(np.uint64)).astype(np.int64)


def permute(values: np.ndarray, n: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """Apply keyed permutations of ``range(n)``.

    Args:
        values: (k,) integers in ``range(n)``.
        n: size of the range, from 1 to 2**52 - 1; one integer or (k,).
        keys: (k,) uint64, the key for each value; equal keys and sizes give the same permutation.

    Returns:
        (k,) int64 in ``range(n)``.
    """
    sizes = np.broadcast_to(np.asarray(n, dtype=np.uint64), values.shape)
    rows = np.sqrt(sizes - _ONE).astype(np.uint64) + _ONE
    columns = (sizes + rows - _ONE) // rows
    result = _feistel(values.astype(np.uint64), rows, columns, keys)
    # Cycle walking: permute values again until they are below n, which makes the result a bijection of range(n).
    while len(out := np.flatnonzero(result >= sizes)):
        result[out] = _feistel(result[out], rows[out], columns[out], keys[out])
    return result.astype(np.int64)


def _feistel(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, keys: np.ndarray) -> np.ndarray:
    row, column = values // columns, values % columns
    for row_keys, column_keys in counter_hash(keys, np.arange(2 * _ROUNDS)[:, None]).reshape(_ROUNDS, 2, -1):
        row = (row + (counter_hash(row_keys, column) >> _ONE)) % rows
        column = (column + (counter_hash(column_keys, row) >> _ONE)) % columns
    return row * columns + column
