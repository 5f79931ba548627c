"""Stitched scores equal those of the whole sequence, and do not depend on batches or on where a region starts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.genomics.stitching import NO_CHUNK, stitched, stitched_chunks
from ldarnet.genomics.windows import WindowGrid
from tests.support.genomics import ContextScorer, ids_of, random_bases, whole

GRID = WindowGrid.of(40, ContextScorer.reach)
SEQUENCES = st.lists(st.sampled_from(["ACGTTGCA", "GATTACA", "CCCC", "N" * 7, "N" * 90]), min_size=1, max_size=30)


def scores(bases, intervals, start=0, batch=3):
    """Values by position, and breaks by position."""
    record, values, breaks = whole(bases, start), {}, {}
    for piece in stitched(record, ids_of(bases), np.array(intervals), GRID, ContextScorer(), batch):
        values |= dict(enumerate(piece.signals["p"].tolist(), piece.start))
        breaks |= dict(enumerate(piece.breaks["chunks"].tolist(), piece.start))
    return values, breaks


def chunks(bases, intervals, batch=3, start=0):
    tables = stitched_chunks(whole(bases, start), ids_of(bases), np.array(intervals), GRID, ContextScorer(), batch)
    return [
        row
        for t in tables
        for row in zip(*(c.tolist() for c in (t.starts, t.ends, t.start_probability, t.mean_probability)), strict=True)
    ]


def test_no_chunk_begins_because_a_window_begins():
    bases = random_bases(1000)
    values, breaks = scores(bases, [[0, 1000]])
    (expected,) = ContextScorer()([type("Window", (), {"ids": ids_of(bases)})])
    assert [values[at] for at in range(1000)] == expected.signals["p"].tolist()
    assert [breaks[at] for at in range(1000)] == expected.starts["chunks"].tolist()


def naive_chunks(values, breaks, length):
    """Chunks of a whole record, one base at a time."""
    found, begin = [], None
    for at in range(length + 1):
        code = NO_CHUNK if at == length else breaks[at]
        if code and begin is not None:
            inside = np.array([values[position] for position in range(begin, at)], np.float32)
            found.append((begin, at, values[begin], float(inside.astype(np.float64).mean().astype(np.float32))))
            begin = None
        if code == 1:
            begin = at
    return found


@given(SEQUENCES)
def test_chunks_equal_a_naive_scan(parts):
    bases = "".join(parts)
    values, breaks = scores(bases, [[0, len(bases)]])
    assert chunks(bases, [[0, len(bases)]]) == naive_chunks(values, breaks, len(bases))


@given(SEQUENCES, st.integers(1, 7), st.data())
def test_regions_give_the_values_and_chunks_of_the_whole_contig(parts, batch, data):
    bases = "".join(parts)
    edges = data.draw(st.lists(st.integers(0, len(bases)), min_size=2, max_size=8, unique=True).map(sorted))
    regions = np.array(edges[: len(edges) // 2 * 2]).reshape(-1, 2).tolist()
    regions = [region for region, after in zip(regions, [*regions[1:], [None]], strict=True) if region[1] != after[0]]
    values, breaks = scores(bases, [[0, len(bases)]])
    part, part_breaks = scores(bases, regions, batch=batch)
    inside = {at for start, end in regions for at in range(start, end)}
    assert part.keys() == inside
    for at in inside:
        assert np.array_equal(part[at], values[at], equal_nan=True) and part_breaks[at] == breaks[at]
    all_chunks = chunks(bases, [[0, len(bases)]])
    within = [c for c in all_chunks if any(start <= c[0] and c[1] <= end for start, end in regions)]
    assert chunks(bases, regions, batch=batch) == within


def test_a_part_of_a_contig_has_the_values_of_the_contig():
    bases = random_bases(600)
    values, _ = scores(bases, [[0, 600]])
    part, _ = scores(bases[100:500], [[100, 500]], start=100)
    reach = ContextScorer.reach
    assert all(part[at] == values[at] for at in range(100 + reach, 500 - reach))


def test_cores_of_n_alone_have_no_values_and_are_not_computed():
    bases = random_bases(60) + "N" * 200 + random_bases(61, seed=1)
    values, breaks = scores(bases, [[0, len(bases)]])
    missing = [at for at, value in values.items() if np.isnan(value)]
    assert missing == list(range(60, 240))
    assert [at for at, code in breaks.items() if code == NO_CHUNK] == missing
    assert breaks[240] == 1  # core after the gap
    scorer = ContextScorer()
    list(stitched(whole(bases), ids_of(bases), np.array([[60, 240]]), GRID, scorer, 4))
    assert not scorer.batches
