"""Train/test leakage: duplicate sequences, and test sequences that share a k-mer with a training sequence.

A k-mer is packed into an integer, two bits per base. Its canonical form, the smaller of the k-mer and its reverse
complement, makes the comparison strand-independent. K-mers that contain N are ignored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ldarnet.alphabet import N, encode
from ldarnet.errors import UserError

MAX_K = 32
"""Maximum k: number of bases that fit into 64 bits."""

_TEST_BASES = 2**24  # bases per block; about half a gigabyte of k-mers
_TRAIN_BASES = 2**19  # bases per block; the working set fits into the CPU cache
_COMPLEMENT = str.maketrans("ACGT", "TGCA")


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Numbers of rows with duplicate sequences.

    A sequence and its reverse complement are duplicates. Validation rows count as training rows.

    Attributes:
        test_in_train: number of test rows that duplicate a training row.
        test_in_train_conflicts: number of test rows that duplicate a training row with a different label.
        train: number of training rows that duplicate an earlier training row.
        train_conflicts: number of such training rows whose label differs from that of the first training row with the
            same sequence.
        test: number of test rows that duplicate an earlier test row.
        test_conflicts: number of such test rows whose label differs from that of the first test row with the same
            sequence.
    """

    test_in_train: int
    test_in_train_conflicts: int
    train: int
    train_conflicts: int
    test: int
    test_conflicts: int

    def sentences(self) -> list[str]:
        """Notes to report with the results, one for each kind of duplicate that occurs."""
        kinds = (
            (
                self.test_in_train,
                self.test_in_train_conflicts,
                "test sequences duplicate a training or validation sequence",
                "",
            ),
            (
                self.train,
                self.train_conflicts,
                "training or validation sequences duplicate an earlier one",
                "; pairs split between training and validation inflate validation metrics",
            ),
            (self.test, self.test_conflicts, "test sequences duplicate an earlier one", ""),
        )
        return [
            f"{count:,} {what} (on either strand), {conflicts:,} of them with a different label{effect}"
            for count, conflicts, what, effect in kinds
            if count
        ]


@dataclass(frozen=True, slots=True)
class LeakFree:
    """Leak-free test rows.

    Attributes:
        kept: (n,) bool, True for leak-free rows.
        equal: number of rows that were dropped because they duplicate a training row.
        sharing: number of other rows that were dropped because they share a k-mer with a training row.
        k: length of the k-mers in bases.
    """

    kept: np.ndarray
    equal: int
    sharing: int
    k: int

    def sentence(self) -> str:
        """Note on the number of leak-free rows and on the reasons why the other rows were dropped."""
        return (
            f"{int(self.kept.sum()):,} of {len(self.kept):,} test sequences share no {self.k}-mer with training "
            f"(dropped: {self.equal:,} duplicates of a training sequence, {self.sharing:,} sharing a {self.k}-mer)"
        )


def canonical(sequence: str) -> str:
    """Canonical form of a sequence: the sequence or its reverse complement, whichever sorts first."""
    return min(sequence, sequence.translate(_COMPLEMENT)[::-1])


def count_duplicates(
    train: Sequence[str], train_labels: np.ndarray, test: Sequence[str], test_labels: np.ndarray
) -> Duplicates:
    """Count rows with duplicate sequences, on either strand: within training, within test, and between the two.

    Args:
        train: training and validation sequences, upper case.
        train_labels: (n,) class indices.
        test: test sequences, upper case.
        test_labels: (m,) class indices.
    """
    known, repeats, conflicts = _labels_of(train, train_labels)
    _, test_repeats, test_conflicts = _labels_of(test, test_labels)
    shared = [(known[key], label) for key, label in _keyed(test, test_labels) if key in known]
    other = sum(labels != (label,) for labels, label in shared)
    return Duplicates(len(shared), other, repeats, conflicts, test_repeats, test_conflicts)


def _keyed(sequences: Sequence[str], labels: np.ndarray) -> Iterator[tuple[str, int]]:
    return zip(map(canonical, sequences), labels.tolist(), strict=True)


def _labels_of(sequences: Sequence[str], labels: np.ndarray) -> tuple[dict[str, tuple[int, ...]], int, int]:
    """Map each distinct sequence to its labels, and count the rows that repeat an earlier sequence.

    Returns:
        A dict from canonical sequence to its distinct labels, in order of first occurrence; the number of rows that
        repeat an earlier sequence; and the number of such rows whose label differs from that of the first row with the
        same sequence.
    """
    every: dict[str, tuple[int, ...]] = {}
    alone = {label: (label,) for label in set(labels.tolist())}  # shared by all sequences with a single label
    repeats = conflicts = 0
    for key, label in _keyed(sequences, labels):
        known = every.get(key)
        if known is None:
            every[key] = alone[label]
            continue
        repeats += 1
        conflicts += label != known[0]
        if label not in known:
            every[key] = (*known, label)
    return every, repeats, conflicts


def find_leak_free(test: Sequence[str], train: Sequence[str], k: int = MAX_K) -> LeakFree:
    """Find the test sequences that neither equal a sequence of `train` nor share a k-mer with one, on either strand.

    To limit memory, test sequences are processed in blocks of about 16 million bases, with one pass over the training
    sequences per block.

    Args:
        test: test sequences of A, C, G, T and N.
        train: training and validation sequences.
        k: length of the k-mers, 1 to 32 bases.

    Raises:
        UserError: `k` is out of range.
    """
    if not 1 <= k <= MAX_K:
        raise UserError(f"evaluation.leak_free={k} is out of range; use 1 to {MAX_K} bases")
    known = {canonical(sequence) for sequence in train}
    equal = np.array([canonical(sequence) in known for sequence in test], dtype=bool)
    shared = np.zeros(len(test), dtype=bool)
    for begin, end in blocks(test, _TEST_BASES):
        kmers, rows = _kmers(test[begin:end], k)
        distinct, which = np.unique(kmers, return_inverse=True)
        shared[begin + rows[_occur_in(distinct, train, k)[which]]] = True
    return LeakFree(~(equal | shared), int(equal.sum()), int((shared & ~equal).sum()), k)


def _occur_in(distinct: np.ndarray, train: Sequence[str], k: int) -> np.ndarray:
    """Whether each k-mer of the sorted array `distinct` occurs in a training sequence."""
    found = np.zeros(len(distinct), dtype=bool)
    if not len(distinct):
        return found
    for begin, end in blocks(train, _TRAIN_BASES):
        block = np.sort(_kmers(train[begin:end], k)[0])  # sorted queries access memory in order
        at = np.minimum(np.searchsorted(distinct, block), len(distinct) - 1)
        found[at[distinct[at] == block]] = True
    return found


def blocks(sequences: Sequence[str], bases: int) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) ranges of consecutive sequences; each range has about `bases` bases."""
    ends = np.cumsum([len(sequence) for sequence in sequences], dtype=np.int64)
    marks = np.searchsorted(ends, np.arange(bases, int(ends[-1]) if len(ends) else 0, bases)) + 1
    yield from pairwise(dict.fromkeys([0, *marks.tolist(), len(sequences)]))


def _kmers(sequences: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Extract the canonical form of every k-mer without N.

    Returns:
        Two arrays of shape (m,): the k-mers, uint64; and for each k-mer the index of its sequence, int64.
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
    """Build each k-mer of length `2 * width` from two adjacent k-mers of length `width`, on both strands."""
    bits, count = np.uint64(2 * width), len(next_forward)
    return (forward[:count] << bits) | next_forward, backward[:count] | (next_backward << bits)
