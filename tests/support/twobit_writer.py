"""Write UCSC .2bit files for tests."""

import struct
from pathlib import Path

import numpy as np

_CODES = {letter: code for code, letter in enumerate("TCAG")}


def write_2bit(path: Path, contigs: dict[str, str]) -> None:
    """Write contigs, given as name -> sequence of A, C, G, T and N in upper or lower case."""
    records = [_record(text) for text in contigs.values()]
    names = [name.encode() for name in contigs]
    at = 16 + sum(5 + len(name) for name in names)
    with path.open("wb") as file:
        file.write(struct.pack("<4I", 0x1A412743, 0, len(contigs), 0))
        for name, record in zip(names, records, strict=True):
            file.write(bytes([len(name)]) + name + struct.pack("<I", at))
            at += len(record)
        file.write(b"".join(records))


def _record(text: str) -> bytes:
    letters = np.frombuffer(text.encode(), np.uint8)
    codes = [_CODES.get(letter, 0) for letter in text.upper() + "T" * (-len(text) % 4)]
    packed = [a << 6 | b << 4 | c << 2 | d for a, b, c, d in np.reshape(codes, (-1, 4)).tolist()]
    runs = _runs((letters & 0xDF) == ord("N")) + _runs(letters & 0x20 != 0)
    return struct.pack("<I", len(text)) + runs + struct.pack("<I", 0) + bytes(packed)


def _runs(mask: np.ndarray) -> bytes:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0])))).astype("<u4")
    return struct.pack("<I", len(edges) // 2) + edges[::2].tobytes() + (edges[1::2] - edges[::2]).tobytes()
