"""Write UCSC .2bit files for tests."""

import struct
from pathlib import Path

import numpy as np

_CODES = {letter: code for code, letter in enumerate("TCAG")}


def write_2bit(path: Path, contigs: dict[str, str], *, order: str = "<", version: int = 0) -> None:
    """Write contigs, given as name -> sequence of A, C, G, T and N in upper or lower case.

    Args:
        order: byte order, as in the `struct` module.
        version: version of the format; version 1 has offsets of 64 bits.
    """
    records = [_record(text, order) for text in contigs.values()]
    names = [name.encode() for name in contigs]
    offset = struct.Struct(f"{order}{'Q' if version else 'I'}")
    at = 16 + sum(1 + len(name) + offset.size for name in names)
    with path.open("wb") as file:
        file.write(struct.pack(f"{order}4I", 0x1A412743, version, len(contigs), 0))
        for name, record in zip(names, records, strict=True):
            file.write(bytes([len(name)]) + name + offset.pack(at))
            at += len(record)
        file.write(b"".join(records))


def _record(text: str, order: str) -> bytes:
    letters = np.frombuffer(text.encode(), np.uint8)
    codes = [_CODES.get(letter, 0) for letter in text.upper() + "T" * (-len(text) % 4)]
    packed = [a << 6 | b << 4 | c << 2 | d for a, b, c, d in np.reshape(codes, (-1, 4)).tolist()]
    runs = _runs((letters & 0xDF) == ord("N"), order) + _runs(letters & 0x20 != 0, order)
    return struct.pack(f"{order}I", len(text)) + runs + struct.pack(f"{order}I", 0) + bytes(packed)


def _runs(mask: np.ndarray, order: str) -> bytes:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    numbers = np.concatenate(([len(edges) // 2], edges[::2], edges[1::2] - edges[::2]))
    return numbers.astype(f"{order}u4").tobytes()
