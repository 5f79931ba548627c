"""Packed rows and selection of positions."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.ops import Packing


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_sequence_and_position_indices_before_and_after_selection(lengths, draw):
    rows = [[(number, offset) for offset in range(length)] for number, length in enumerate(lengths)]
    flat = [position for row in rows for position in row]
    packing = Packing.of_lengths(torch.tensor(lengths), len(flat))
    assert list(zip(packing.sequence.tolist(), packing.position.tolist(), strict=True)) == flat

    mask = torch.tensor([draw.random() < 0.5 for _ in flat], dtype=torch.bool)
    index, selected = packing.select(mask)
    assert index.tolist() == [i for i, keep in enumerate(mask.tolist()) if keep]
    assert selected.sequence.tolist() == [flat[i][0] for i in index.tolist()]
    counts = [sum(flat[i][0] == number for i in index.tolist()) for number in range(len(lengths))]
    assert selected.host_lengths == counts
    known_index, known = packing.select_known(mask, tuple(counts))
    assert known_index.equal(index) and known.starts.equal(selected.starts) and known.total == selected.total
    assert known.host_lengths == counts and known.max_length == max(counts)
