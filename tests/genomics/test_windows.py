"""The grid of windows depends on the contig only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldarnet.errors import UserError
from ldarnet.genomics.genome import GenomeRecord
from ldarnet.genomics.windows import WindowGrid


@st.composite
def grids(draw: st.DrawFn) -> WindowGrid:
    window = draw(st.integers(8, 60))
    return WindowGrid.of(window, draw(st.integers(1, (window - 1) // 2)))


@given(grids(), st.integers(0, 500), st.integers(1, 400), st.data())
def test_cores_partition_a_record_wherever_a_region_starts(grid, start, length, data):
    record = GenomeRecord(0, "c", start, start + length, "")
    windows = list(grid.over(record, np.array([[record.start, record.end]])))
    edges = [window.core_start for window in windows] + [record.end]
    assert edges[0] == record.start and edges[1:] == [window.core_end for window in windows]
    for window in windows:
        assert record.start <= window.start <= window.core_start < window.core_end <= window.end <= record.end
        assert window.end - window.start <= grid.window
        assert window.start == record.start or window.core_start - window.start == grid.margin
        assert window.end == record.end or window.end - window.core_end == grid.margin
    first = data.draw(st.integers(record.start, record.end - 1))
    last = data.draw(st.integers(first + 1, record.end))
    expected = [window for window in windows if window.core_end > first and window.core_start < last]
    assert list(grid.over(record, np.array([[first, last]]))) == expected


@given(grids(), st.lists(st.integers(0, 300), min_size=2, max_size=12, unique=True))
def test_regions_in_one_core_share_a_window(grid, edges):
    edges = sorted(edges)[: len(edges) // 2 * 2]
    record = GenomeRecord(0, "c", 0, 301, "")
    windows = list(grid.over(record, np.array(edges).reshape(-1, 2)))
    assert len({window.core_start for window in windows}) == len(windows)


def test_a_part_of_a_contig_has_the_grid_of_the_contig():
    grid = WindowGrid.of(32, 4)
    contig, part = GenomeRecord(0, "c", 0, 1000, ""), GenomeRecord(0, "c", 333, 777, "")
    inner = [w for w in grid.over(contig, np.array([[0, 1000]])) if w.start >= 333 and w.end <= 777]
    assert len(inner) > 10 and {*inner} <= {*grid.over(part, np.array([[333, 777]]))}


def test_a_record_that_fits_into_a_window_is_one_core():
    record = GenomeRecord(0, "c", 7, 39, "")
    (window,) = WindowGrid.of(32, 8).over(record, np.array([[7, 39]]))
    assert (window.start, window.end, window.core_start, window.core_end) == (7, 39, 7, 39)


@pytest.mark.parametrize(
    ("window", "margin", "message"),
    [
        (7, None, "--window 7: too short; choose at least 8 bases"),
        (64, 32, "--margin 32: out of range; choose 1 to 31 bases for this window"),
        (64, 0, "--margin 0: out of range"),
    ],
)
def test_impossible_windows_are_errors(window, margin, message):
    with pytest.raises(UserError, match=message):
        WindowGrid.of(window, margin)
