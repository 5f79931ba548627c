"""Scores of finished alleles in a hidden folder, so that an interrupted command resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.variants.alleles import Allele
from ldarnet.io.files import atomic_path, make_folder, write_json_atomic
from ldarnet.io.lock import acquire
from ldarnet.io.records import MAX_BYTES, Count, Sha256, read_bytes, read_record

PART_SECONDS = 30.0
"""Minimum seconds between two files of scores; an interruption loses at most the work of this time."""

_KEY_FILE = "key.json"
_SUFFIX = ".f64"
_HASHED = ("model", "genome", "variants")


@dataclass(frozen=True, slots=True)
class ScoringKey:
    """Everything that scores depend on, rounding included.

    Attributes:
        model: hash of the model.
        genome: hash of the names and sequences of the genome.
        variants: hash of the alleles.
        window: window length in bases.
        batch: alleles per forward pass.
        device: type of the device.
        scores: names of the scores.
        ldarnet: version of this package.
    """

    model: Sha256
    genome: Sha256
    variants: Sha256
    window: Count
    batch: Count
    device: str
    scores: list[str]
    ldarnet: str


class UnfinishedScores:
    """Folder with the scores of finished alleles; locked inside a ``with`` block."""

    def __init__(self, folder: Path, key: ScoringKey) -> None:
        """Choose the folder; nothing is read or written before the ``with`` block.

        Args:
            folder: path of the folder.
            key: what the scores depend on.
        """
        self.folder = folder
        self._key, self._rows = key, list[np.ndarray]()
        self._saved = 0.0

    def __enter__(self) -> Self:
        """Lock the folder, or create it.

        Raises:
            UserError: the folder has scores with another key, or another process uses it.
        """
        make_folder(self.folder)
        self._lock = acquire(self.folder, f"{self.folder}: another process scores to this file; wait for it")
        if self._parts():
            self._check_key()
        else:
            write_json_atomic(self.folder / _KEY_FILE, asdict(self._key))
        self._saved = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        """Save the scores so far; without any, remove the folder."""
        if self.folder.is_dir():
            self._save()
            if not self._parts():
                self.remove()
        self._lock.close()

    def read(self, alleles: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the finished ones of ``alleles`` alleles, (n,) int64, and their scores, (n, scores) float64.

        Raises:
            UserError: a file is damaged.
        """
        width = 1 + len(self._key.scores)
        parts = [np.empty((0, width))]
        for file in self._parts():
            content = read_bytes(file, hint=self._hint, max_bytes=MAX_BYTES)
            rows = np.frombuffer(content[: len(content) // (8 * width) * 8 * width], "<f8").reshape(-1, width)
            if rows.nbytes != len(content) or not np.isin(rows[:, 0], np.arange(alleles)).all():
                raise UserError(f"{file}: damaged; {self._hint}")
            parts.append(rows)
        rows = np.concatenate(parts)
        return rows[:, 0].astype(np.int64), rows[:, 1:]

    def add(self, indices: Sequence[int], values: np.ndarray) -> None:
        """Add the scores of alleles, (n, scores); they are saved every `PART_SECONDS`.

        Raises:
            NotWritableError: the disk is full.
        """
        self._rows.append(np.column_stack((np.array(indices, np.float64), values)))
        if time.monotonic() - self._saved >= PART_SECONDS:
            self._save()

    def remove(self) -> None:
        """Remove the folder and the scores."""
        self._rows.clear()
        shutil.rmtree(self.folder)

    @property
    def _hint(self) -> str:
        return f"delete {self.folder} and run the same command again"

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"[0-9]*{_SUFFIX}"))

    def _save(self) -> None:
        if self._rows:
            with atomic_path(self.folder / f"{len(self._parts()):06d}{_SUFFIX}") as partial:
                partial.write_bytes(np.concatenate(self._rows).astype("<f8").tobytes())
            self._rows.clear()
        self._saved = time.monotonic()

    def _check_key(self) -> None:
        found = read_record(self.folder / _KEY_FILE, ScoringKey, hint=self._hint)
        for field, old, new in zip(fields(found), astuple(found), astuple(self._key), strict=True):
            if old != new:
                values = "" if field.name in _HASHED else f" ({old}, now {new})"
                raise UserError(
                    f"{self.folder}: unfinished scores with another {field.name}{values}; run the earlier command "
                    "again to finish them, or delete this folder"
                )


def genome_hash(genome: Genome) -> str:
    """SHA-256 of the names, places and sequences of a genome."""
    return hashlib.sha256(json.dumps([asdict(record) for record in genome.records]).encode()).hexdigest()


def alleles_hash(alleles: Sequence[Allele]) -> str:
    """SHA-256 of alleles."""
    digest = hashlib.sha256()
    for allele in alleles:
        digest.update(f"{allele.contig}\t{allele.position}\t{allele.ref}\t{allele.alt}\n".encode())
    return digest.hexdigest()
