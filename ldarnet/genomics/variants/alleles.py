"""Alternate alleles, and the windows in which a model reads them.

An allele is trimmed first: the bases that REF and ALT share at the end, then those at the start, are removed. What is
left is a substitution (REF and ALT of equal length), or an insertion or deletion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ldarnet import alphabet
from ldarnet.genomics.genome import GenomeRecord

_BASES = re.compile("[ACGT]+")
_CODES = re.compile("[ACGTRYSWKMBDHVN]+")


@dataclass(frozen=True, slots=True)
class Allele:
    """One alternate allele of a record.

    Attributes:
        number: line or row of the record, from 1.
        contig: name of the contig.
        position: position of the first base of ``ref``, 0-based.
        ref: reference allele, in upper case.
        alt: alternate allele, in upper case.
    """

    number: int
    contig: str
    position: int
    ref: str
    alt: str

    def trimmed(self) -> Allele:
        """Remove the bases that REF and ALT share, first at the end, then at the start."""
        ref, alt = self.ref, self.alt
        end = _shared(ref[::-1], alt[::-1])
        ref, alt = ref[: len(ref) - end], alt[: len(alt) - end]
        start = _shared(ref, alt)
        return Allele(self.number, self.contig, self.position + start, ref[start:], alt[start:])

    def unsupported_reason(self, window: int) -> str | None:
        """Kind of an allele that has no scores, in the plural; None if it has some."""
        if not _CODES.fullmatch(self.alt):
            return "symbolic or missing alleles"
        if not _BASES.fullmatch(self.ref) or not _BASES.fullmatch(self.alt):
            return "alleles with N or another ambiguity code"
        if self.ref == self.alt:
            return "alleles equal to REF"
        edit = self.trimmed()
        if max(len(edit.ref), len(edit.alt)) > window // 2:
            return "alleles longer than half a window"
        return None


@dataclass(frozen=True, slots=True)
class AllelePair:
    """A window with the reference allele, and the same window with the alternate allele.

    Attributes:
        ref: (L,) uint8, token ids with the reference allele.
        alt: token ids with the alternate allele; of length L - ref_length + alt_length.
        at: index of the first base of both alleles.
        ref_length: bases of the trimmed reference allele.
        alt_length: bases of the trimmed alternate allele.
    """

    ref: np.ndarray
    alt: np.ndarray
    at: int
    ref_length: int
    alt_length: int

    @property
    def is_substitution(self) -> bool:
        """Whether both alleles have the same length."""
        return self.ref_length == self.alt_length

    def changed(self) -> np.ndarray:
        """Indices of the bases that a substitution changes."""
        return np.flatnonzero(self.ref != self.alt)

    def aligned(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the bases in ``ref`` and ``alt`` that belong together.

        For a substitution, all bases; for an insertion or deletion, the bases on both sides of it.
        """
        at = np.arange(self.at)
        skip = (0, 0) if self.is_substitution else (self.ref_length, self.alt_length)
        ref, alt = (
            np.concatenate((at, np.arange(self.at + inside, len(ids))))
            for ids, inside in zip((self.ref, self.alt), skip, strict=True)
        )
        return ref, alt


def place(allele: Allele, record: GenomeRecord, ids: np.ndarray, window: int) -> AllelePair:
    """Build the windows of an allele.

    The window has ``window // 2`` bases before the variant, or before the middle of a longer reference allele. At the
    ends of the contig, it is moved inwards; a contig that is shorter is read whole.

    Args:
        allele: the allele.
        record: the sequence of the genome that contains it.
        ids: token ids of the whole record.
        window: length in bases.
    """
    edit = allele.trimmed()
    start = edit.position + len(edit.ref) // 2 - window // 2
    start = max(min(start, record.end - window), record.start) - record.start
    end = min(start + window, record.length)
    at = edit.position - record.start
    left, right = ids[start:at], ids[at + len(edit.ref) : end]
    pair = [np.concatenate((left, alphabet.encode(bases), right)) for bases in (edit.ref, edit.alt)]
    return AllelePair(pair[0], pair[1], at - start, len(edit.ref), len(edit.alt))


def _shared(one: str, other: str) -> int:
    """Number of equal bases at the start."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
