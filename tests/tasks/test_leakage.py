from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.errors import UserError
from ldarnet.tasks import find_leak_free, leakage, open_task
from ldarnet.tasks.leakage import count_duplicates

COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def reverse_complement(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]


def brute_force_leak_free(test: list[str], train: list[str], k: int) -> list[bool]:
    strands = [strand for sequence in train for strand in (sequence, reverse_complement(sequence))]
    known = {strand[at : at + k] for strand in strands for at in range(len(strand) - k + 1)}
    return [
        sequence not in strands
        and not any(
            sequence[at : at + k] in known and "N" not in sequence[at : at + k] for at in range(len(sequence) - k + 1)
        )
        for sequence in test
    ]


SEQUENCES = st.lists(st.text("ACGTN", max_size=40), max_size=12)


@given(test=SEQUENCES, train=SEQUENCES, k=st.integers(1, 32), cut=st.tuples(st.integers(0, 30), st.booleans()))
def test_dropped_rows_are_those_that_share_a_kmer_on_either_strand(test, train, k, cut):
    if train and test:  # otherwise the rows would rarely share a long k-mer
        piece = train[0][cut[0] :]
        test[0] += reverse_complement(piece) if cut[1] else piece
    blocks = leakage._TEST_BASES, leakage._TRAIN_BASES
    leakage._TEST_BASES, leakage._TRAIN_BASES = 50, 30
    try:
        found = find_leak_free(test, train, k)
    finally:
        leakage._TEST_BASES, leakage._TRAIN_BASES = blocks
    assert found.kept.tolist() == brute_force_leak_free(test, train, k)
    assert found.equal + found.sharing + found.kept.sum() == len(test)


def test_counts_give_the_reasons_for_dropped_rows():
    shared = "ACGTTGCAACGGTACCATGCCATGACGTTTGA"
    train = ["A" * 50 + shared, "CCCC"]
    test = [reverse_complement("A" * 50 + shared), "T" * 20 + shared + "G", shared[1:], "GGGG", "ACGT"]
    found = find_leak_free(test, train)
    assert found.kept.tolist() == [False, False, True, False, True]
    assert (found.equal, found.sharing) == (2, 1)
    assert found.sentence() == (
        "2 of 5 test sequences share no 32-mer with training (dropped: 2 duplicates of a training sequence, 1 sharing "
        "a 32-mer)"
    )


def test_k_is_at_most_32():
    with pytest.raises(UserError, match=r"evaluation\.leak_free=33 is out of range; use 1 to 32 bases"):
        find_leak_free(["ACGT"], ["ACGT"], 33)


def test_duplicates_are_counted_on_either_strand_with_conflicts():
    train, test = ["AACC", "GGTT", "TTTT", "ACGT"], ["AACC", "AAAA", "CCCC", "CCCC"]
    found = count_duplicates(train, np.array([0, 1, 0, 1]), test, np.array([0, 0, 1, 0]))
    assert (found.train, found.train_conflicts) == (1, 1)
    assert (found.test_in_train, found.test_in_train_conflicts) == (2, 1)
    assert (found.test, found.test_conflicts) == (1, 1)
    assert len(found.sentences()) == 3
    none = count_duplicates(["A"], np.array([0]), [], np.array([]))
    assert none.sentences() == []


def test_repeated_sequences_with_several_labels_are_counted():
    train, labels = ["AC", "GT", "AC", "GG", "CC", "AC"], np.array([2, 2, 0, 1, 1, 1])
    found = count_duplicates(train, labels, ["AC", "CC", "TA"], np.array([2, 1, 0]))
    assert (found.train, found.train_conflicts) == (4, 2)
    assert (found.test_in_train, found.test_in_train_conflicts) == (2, 1)


def test_histone_test_sequences_share_kmers_with_training(real_tasks: Path):
    data = open_task("H3", folder=real_tasks / "nt_histone")
    found = find_leak_free(data.test.sequences, data.train.sequences)
    assert (found.equal, found.sharing) == (0, 412)
    test, train = data.test.sequences[:300], data.train.sequences[:300]
    assert find_leak_free(test, train).kept.tolist() == brute_force_leak_free(test, train, 32)


def test_duplicates_of_gue_promoters_are_reported(shared: Path):
    notes = open_task("gue/prom_core_tata", folder=shared / "data" / "gue_deepgene").notes
    assert (
        "18 test sequences duplicate a training or validation sequence (on either strand), 1 of them with a different "
        "label" in notes
    )
