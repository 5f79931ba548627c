"""The DNA alphabet: token ids, complement, and vectorized conversion between text and ids.

``A C G T N [MASK] [PAD]`` have ids 0 to 6. Case is ignored; all other characters become N.
"""

import numpy as np

A, C, G, T, N, MASK, PAD = range(7)
VOCAB_SIZE = 7
NUCLEOTIDES = "ACGTN"
TOKENS = ("A", "C", "G", "T", "N", "[MASK]", "[PAD]")

IGNORE_INDEX = -100
"""Label of positions that are not targets; the loss ignores them."""

_ENCODE = np.full(256, N, dtype=np.uint8)
for _base, _id in zip("ACGT", (A, C, G, T), strict=True):
    _ENCODE[ord(_base)] = _ENCODE[ord(_base.lower())] = _id
_DECODE = np.frombuffer(b"ACGTN??", dtype=np.uint8)


def encode(sequence: str | bytes | bytearray | memoryview) -> np.ndarray:
    """Convert DNA text of length L to token ids, shape (L,), uint8.

    Raises:
        ValueError: the text contains a non-ASCII character.
    """
    if isinstance(sequence, str):
        try:
            sequence = sequence.encode("ascii")
        except UnicodeEncodeError as error:
            raise ValueError(f"not DNA: character {sequence[error.start]!r} at position {error.start}") from None
    return _ENCODE[np.frombuffer(sequence, dtype=np.uint8)]


def decode(ids: np.ndarray) -> str:
    """Convert token ids of shape (L,) to text of length L; [MASK] and [PAD] become ``?``."""
    return _DECODE[np.asarray(ids)].tobytes().decode("ascii")


def reverse_complement(ids: np.ndarray) -> np.ndarray:
    """Reverse complement of uint8 ids, shape (..., L); N, [MASK] and [PAD] are their own complement."""
    complement = ids[..., ::-1].copy()
    complement ^= (complement < N).view(np.uint8) * np.uint8(A ^ T)  # A and T, C and G differ in the same two bits
    return complement
