"""Batches are pure functions of seed, fold and epoch, nearly equal in size, and partitioned over ranks."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.alphabet import PAD, encode, reverse_complement
from ldarnet.errors import UserError
from ldarnet.finetuning.batches import Epoch, check_batch_size, cropped, padded


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 3), st.integers(1, 4))
def test_ranks_and_micro_steps_partition_every_batch(rows, batch, accumulation, ranks):
    epoch = Epoch.of(rows, batch, seed=(42, 0, 1), both_strands=False)
    sizes = [len(part) for part in epoch.batches]
    assert len(sizes) == -(-rows // batch)
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    parts = [
        epoch.local_rows(step, micro, accumulation, rank, ranks)
        for step in range(len(sizes))
        for micro in range(accumulation)
        for rank in range(ranks)
    ]
    assert sorted(np.concatenate(parts)) == list(range(rows))
    try:
        check_batch_size(rows, batch, accumulation, ranks)
    except UserError:
        assert min(map(len, parts)) == 0 or min(sizes) < accumulation * ranks
    else:
        assert min(map(len, parts)) > 0


def test_an_epoch_is_a_function_of_seed_fold_and_number():
    first = np.concatenate(Epoch.of(50, 8, seed=(42, 0, 1), both_strands=True).batches)
    assert np.array_equal(first, np.concatenate(Epoch.of(50, 8, seed=(42, 0, 1), both_strands=False).batches))
    for other in [(42, 0, 2), (42, 1, 1), (43, 0, 1)]:
        assert not np.array_equal(first, np.concatenate(Epoch.of(50, 8, seed=other, both_strands=True).batches))


def test_half_of_the_rows_are_reverse_complemented_on_request():
    rows = [encode("AACC"), encode("ACGTN")]
    epoch = Epoch.of(2000, 8, seed=(42, 0, 1), both_strands=True)
    assert 0.45 < epoch.flipped.mean() < 0.55
    assert not Epoch.of(2000, 8, seed=(42, 0, 1), both_strands=False).flipped.any()
    for row, flipped in enumerate(epoch.flipped[:2]):
        (ids,) = epoch.oriented(rows, np.array([row]))
        assert np.array_equal(ids, reverse_complement(rows[row]) if flipped else rows[row])


def test_shorter_rows_are_padded_at_the_end():
    ids, real = padded([encode("ACGT"), encode("AC")])
    assert ids.tolist() == [[0, 1, 2, 3], [0, 1, PAD, PAD]]
    assert torch.equal(real, torch.tensor([[True] * 4, [True, True, False, False]]))


def test_cropping_keeps_the_center():
    assert cropped("AACCGGTT", 4) == "CCGG"
    assert cropped("AACCGGTTT", 4) == "CCGG"
    assert cropped("ACG", 4) == cropped("ACG", None) == "ACG"
