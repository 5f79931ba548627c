"""The DNA alphabet: token ids, complement, and vectorised encoding between text and ids.

``A C G T N [MASK] [PAD]`` are ids 0..6. Lower case is read as upper case; every other letter becomes N.
"""

import numpy as np

A, C, G, T, N, MASK, PAD = range(7)
VOCAB_SIZE = 7
LETTERS = "ACGTN"
TOKENS = ("A", "C", "G", "T", "N", "[MASK]", "[PAD]")

NOT_SCORED = -100
"""The label of a position that is not scored."""

_ENCODE = np.full(256, N, dtype=np.uint8)
for _letter, _id in zip("ACGT", (A, C, G, T), strict=True):
    _ENCODE[ord(_letter)] = _ENCODE[ord(_letter.lower())] = _id
# [MASK] and [PAD] have no letter of their own in a sequence.
_DECODE = np.frombuffer(b"ACGTN??", dtype=np.uint8)


def encode(sequence: str | bytes | bytearray | memoryview) -> np.ndarray:
    """Turn DNA text of length L into ids, shape (L,), uint8.

    Raises:
        ValueError: the text holds characters outside ASCII.
    """
    if isinstance(sequence, str):
        try:
            sequence = sequence.encode("ascii")
        except UnicodeEncodeError as error:
            raise ValueError(f"not DNA: character {sequence[error.start]!r} at position {error.start}") from None
    return _ENCODE[np.frombuffer(sequence, dtype=np.uint8)]


def decode(ids: np.ndarray) -> str:
    """Turn ids of shape (L,) into text of length L; [MASK] and [PAD] read as ``?``."""
    return _DECODE[np.asarray(ids)].tobytes().decode("ascii")


def reverse_complement(ids: np.ndarray) -> np.ndarray:
    """The other strand of uint8 ids of shape (..., L), read in its own direction."""
    other = ids[..., ::-1].copy()
    other ^= (other < N).view(np.uint8) * np.uint8(A ^ T)  # A and T, C and G differ in the same two bits
    return other
