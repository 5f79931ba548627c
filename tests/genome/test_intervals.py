from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.genome.intervals import intersect, merge, subtract, total_bases

LENGTHS = np.array([12, 1, 30])

intervals = st.lists(
    st.integers(0, 2).flatmap(
        lambda contig: st.tuples(
            st.just(contig), st.integers(0, int(LENGTHS[contig]) - 1), st.integers(1, int(LENGTHS[contig]))
        )
    ),
    max_size=12,
).map(lambda rows: np.array([row for row in rows if row[1] < row[2]], dtype=np.int64).reshape(-1, 3))


def held(rows: np.ndarray) -> set[tuple[int, int]]:
    return {(contig, base) for contig, start, stop in rows.tolist() for base in range(start, stop)}


def is_sorted_and_disjoint(rows: np.ndarray) -> bool:
    listed = rows.tolist()
    ordered = all(a[0] < b[0] or (a[0] == b[0] and a[2] <= b[1]) for a, b in pairwise(listed))
    return ordered and bool((rows[:, 1] < rows[:, 2]).all())


@given(intervals)
def test_merged_intervals_cover_the_same_bases_and_do_not_touch(rows):
    merged = merge(rows)
    assert held(merged) == held(rows)
    assert is_sorted_and_disjoint(merged)
    assert total_bases(merged) == len(held(rows))
    same_contig = merged[1:, 0] == merged[:-1, 0]
    assert (merged[1:, 1] > merged[:-1, 2])[same_contig].all()


@given(intervals, intervals)
def test_intersection_and_difference_equal_those_of_base_sets(rows, others):
    rows, others = merge(rows), merge(others)
    both, left = intersect(rows, others), subtract(rows, others, LENGTHS)
    assert held(both) == held(rows) & held(others)
    assert held(left) == held(rows) - held(others)
    assert is_sorted_and_disjoint(both)
    assert is_sorted_and_disjoint(left)
