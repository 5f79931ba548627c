"""Scores of finished records in a hidden folder, so that an interrupted command resumes with the next record."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genomics.regions import Intervals
from ldarnet.genomics.stitching import StitchedPiece
from ldarnet.io.files import make_folder, space_errors, staged_folder, write_json_atomic
from ldarnet.io.records import Sha256, read_record

_KEY_FILE = "key.json"
_BLOCK = 2**16
_HINT = "remove the folder and run the same command again"
_SUFFIXES = {"float32": ".f32", "uint8": ".u8"}


@dataclass(frozen=True, slots=True)
class _PartialKey:
    """Identity of the run that scores belong to."""

    key: Sha256


class PartialScores:
    """Folder with the scores of finished records: one subfolder per record, one file per signal or set of chunks.

    Attributes:
        discarded: whether scores of another model, genome or configuration were removed.
    """

    def __init__(self, folder: Path, key: str, signals: Iterable[str], chunks: Iterable[str]) -> None:
        """Open the folder, or create it.

        Args:
            folder: path of the folder.
            key: hash of everything that the scores depend on.
            signals: names of the signals.
            chunks: names of the sets of chunks.
        """
        self.folder = folder
        self._types = {name: np.dtype("<f4") for name in signals} | {name: np.dtype("u1") for name in chunks}
        self.discarded = folder.is_dir() and not self._belongs_to(key)
        if self.discarded:
            shutil.rmtree(folder)
        make_folder(folder)
        write_json_atomic(folder / _KEY_FILE, {"key": key})

    def _belongs_to(self, key: str) -> bool:
        file = self.folder / _KEY_FILE
        try:
            return read_record(file, _PartialKey, hint=_HINT).key == key
        except UserError:  # an interrupted launch left no key, or a damaged one: start anew
            return False

    def has(self, number: int, intervals: Intervals) -> bool:
        """Whether the scores of a record are complete."""
        files = {self._file(self.folder / str(number), name): kind for name, kind in self._types.items()}
        total = int((intervals[:, 1] - intervals[:, 0]).sum())
        return all(file.is_file() and file.stat().st_size == total * kind.itemsize for file, kind in files.items())

    def write(self, number: int, pieces: Iterable[StitchedPiece]) -> None:
        """Write the scores of a record; they appear only when they are complete.

        Raises:
            NotWritableError: the disk is full.
        """
        with staged_folder(self.folder / str(number), replace=True) as staged, ExitStack() as stack:
            files = {name: stack.enter_context(self._file(staged, name).open("wb")) for name in self._types}
            for piece in pieces:
                for name, values in (piece.signals | piece.breaks).items():
                    with space_errors(self.folder):
                        files[name].write(values.astype(self._types[name]).tobytes())

    def read(
        self, number: int, intervals: Intervals, names: tuple[str, ...]
    ) -> Iterator[tuple[int, Iterator[tuple[int, tuple[np.ndarray, ...]]]]]:
        """Yield the index of each interval, and its positions and values in blocks, which must be read in order.

        Args:
            number: number of the record.
            intervals: intervals of the record, as written.
            names: signals or sets of chunks to read together.
        """
        folder = self.folder / str(number)
        with ExitStack() as stack:
            files = [(stack.enter_context(self._file(folder, n).open("rb")), self._types[n]) for n in names]
            for index, (start, end) in enumerate(intervals.tolist()):
                yield index, _blocks(files, start, end)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _file(self, folder: Path, name: str) -> Path:
        return folder / f"{name}{_SUFFIXES[self._types[name].name]}"


def _blocks(
    files: Sequence[tuple[BinaryIO, np.dtype]], start: int, end: int
) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Read the values of the positions from ``start`` to ``end``."""
    for position in range(start, end, _BLOCK):
        count = min(_BLOCK, end - position)
        yield position, tuple(np.fromfile(file, kind, count) for file, kind in files)
