"""Test sequences that a model may know from training: equal ones, and those that share a stretch of bases.

A stretch of k bases is one number, two bits a base; of a stretch and its reverse complement the smaller one counts, so
that the strand does not matter. A stretch with an N is none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ldarnet.alphabet import N, encode
from ldarnet.errors import UserError

LONGEST_STRETCH = 32
"""Bases that fit into 64 bits."""

_TEST_BASES = 2**24  # held at once, as about half a gigabyte of stretches
_TRAIN_BASES = 2**19  # what is computed of them fits into the cache of a processor
_COMPLEMENT = str.maketrans("ACGT", "TGCA")


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Equal sequences, on the same strand or on the other.

    Attributes:
        test_in_train: test rows that are equal to a training row.
        test_in_train_conflicts: those of them with another label than such a training row.
        train: training rows that repeat an earlier one.
        train_conflicts: those of them with another label than the first.
        test: test rows that repeat an earlier one.
        test_conflicts: those of them with another label than the first.
    """

    test_in_train: int
    test_in_train_conflicts: int
    train: int
    train_conflicts: int
    test: int
    test_conflicts: int

    def sentences(self) -> list[str]:
        """What a reader of results should know, a sentence for each kind that there is."""
        kinds = (
            (
                self.test_in_train,
                self.test_in_train_conflicts,
                "test sequences are equal to one of training or validation",
                "",
            ),
            (
                self.train,
                self.train_conflicts,
                "sequences of training or validation repeat an earlier one",
                "; where one trains and the other validates, validation numbers are too high",
            ),
            (self.test, self.test_conflicts, "test sequences repeat an earlier one", ""),
        )
        return [
            f"{count:,} {what} (on either strand), {conflicts:,} of them with another label{so}"
            for count, conflicts, what, so in kinds
            if count
        ]


@dataclass(frozen=True, slots=True)
class LeakFree:
    """The test rows that training cannot have shown.

    Attributes:
        kept: shape (n,), bool: whether a test row is one of them.
        equal: test rows left out because they are equal to a training row.
        sharing: further rows left out because they share a stretch with one.
        stretch: bases of a stretch.
    """

    kept: np.ndarray
    equal: int
    sharing: int
    stretch: int

    def sentence(self) -> str:
        """What was left out and why."""
        return (
            f"{int(self.kept.sum()):,} of {len(self.kept):,} test sequences share no stretch of {self.stretch} bases "
            f"with training (left out: {self.equal:,} equal to a training sequence, {self.sharing:,} sharing a stretch)"
        )


def either_strand(sequence: str) -> str:
    """A sequence or its reverse complement, whichever comes first: the same for both strands."""
    return min(sequence, sequence.translate(_COMPLEMENT)[::-1])


def count_duplicates(
    train: Sequence[str], train_labels: np.ndarray, test: Sequence[str], test_labels: np.ndarray
) -> Duplicates:
    """Count equal sequences within and between training and test, on either strand.

    Args:
        train: training sequences in upper case, those of validation included.
        train_labels: shape (n,), their labels.
        test: test sequences.
        test_labels: shape (m,), their labels.
    """
    known, repeats, conflicts = _labels_of(train, train_labels)
    _, test_repeats, test_conflicts = _labels_of(test, test_labels)
    again = [(known[key], label) for key, label in _keyed(test, test_labels) if key in known]
    other = sum(labels != {label} for labels, label in again)
    return Duplicates(len(again), other, repeats, conflicts, test_repeats, test_conflicts)


def _keyed(sequences: Sequence[str], labels: np.ndarray) -> Iterator[tuple[str, int]]:
    return zip(map(either_strand, sequences), labels.tolist(), strict=True)


def _labels_of(sequences: Sequence[str], labels: np.ndarray) -> tuple[dict[str, set[int]], int, int]:
    """The labels of each sequence, how many rows repeat one, and how many of these differ from the first in label."""
    first: dict[str, int] = {}
    every: dict[str, set[int]] = {}
    repeats = conflicts = 0
    for key, label in _keyed(sequences, labels):
        if key in first:
            repeats += 1
            conflicts += label != first[key]
        first.setdefault(key, label)
        every.setdefault(key, set()).add(label)
    return every, repeats, conflicts


def find_leak_free(test: Sequence[str], train: Sequence[str], stretch: int = LONGEST_STRETCH) -> LeakFree:
    """The test sequences that neither equal a training sequence nor share a stretch with one, on either strand.

    Memory is bounded but for the sequences themselves; time grows with the bases of training for every 16 million bases
    of test sequences.

    Args:
        test: test sequences of A, C, G, T and N.
        train: training sequences, those of validation included.
        stretch: bases, at most 32.

    Raises:
        UserError: the stretch is not 1 to 32 bases long.
    """
    if not 1 <= stretch <= LONGEST_STRETCH:
        raise UserError(
            f"evaluation.leak_free={stretch}: a stretch has 1 to {LONGEST_STRETCH} bases; name such a number"
        )
    known = {either_strand(sequence) for sequence in train}
    equal = np.array([either_strand(sequence) in known for sequence in test], dtype=bool)
    shared = np.zeros(len(test), dtype=bool)
    for begin, end in _blocks(test, _TEST_BASES):
        stretches, rows = _stretches(test[begin:end], stretch)
        distinct, which = np.unique(stretches, return_inverse=True)
        shared[begin + rows[_occur_in(distinct, train, stretch)[which]]] = True
    return LeakFree(~(equal | shared), int(equal.sum()), int((shared & ~equal).sum()), stretch)


def _occur_in(distinct: np.ndarray, train: Sequence[str], stretch: int) -> np.ndarray:
    """Which of ``distinct``, sorted stretches, are in training; a boolean for each."""
    found = np.zeros(len(distinct), dtype=bool)
    if not len(distinct):
        return found
    for begin, end in _blocks(train, _TRAIN_BASES):
        block = np.sort(_stretches(train[begin:end], stretch)[0])  # sorted, the search runs through memory in order
        at = np.minimum(np.searchsorted(distinct, block), len(distinct) - 1)
        found[at[distinct[at] == block]] = True
    return found


def _blocks(sequences: Sequence[str], bases: int) -> Iterator[tuple[int, int]]:
    """Ranges of sequences with about so many bases, or one that is longer."""
    ends = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
    marks = np.searchsorted(ends, np.arange(bases, int(ends[-1]) if len(ends) else 0, bases)) + 1
    yield from pairwise(dict.fromkeys([0, *marks.tolist(), len(sequences)]))


def _stretches(sequences: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """All stretches of k bases, shape (s,), uint64, and the sequence that each is from, shape (s,), int64.

    A stretch of twice the bases is put together of two, so that k bases take about log2(k) steps.
    """
    ids = encode("N".join(sequences))
    if len(ids) < k:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    base = (ids & 3).astype(np.uint64)
    other = np.uint64(3) - base
    forward, backward, width = base, other, 1
    for bit in bin(k)[3:]:
        forward, backward = _joined(forward, backward, forward[width:], backward[width:], width)
        width *= 2
        if bit == "1":
            backward = backward[: len(base) - width] | (other[width:] << np.uint64(2 * width))
            forward = (forward[: len(base) - width] << np.uint64(2)) | base[width:]
            width += 1
    unknown = np.concatenate([[0], np.cumsum(ids == N)])
    starts = np.flatnonzero(unknown[k:] == unknown[:-k])
    row_of_base = np.repeat(np.arange(len(sequences)), [len(sequence) + 1 for sequence in sequences])
    return np.minimum(forward, backward)[starts], row_of_base[starts]


def _joined(
    forward: np.ndarray, backward: np.ndarray, next_forward: np.ndarray, next_backward: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of twice the width, of those that begin at each base and those that follow them."""
    bits, count = np.uint64(2 * width), len(next_forward)
    return (forward[:count] << bits) | next_forward, backward[:count] | (next_backward << bits)
