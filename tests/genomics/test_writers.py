"""Files for genome browsers, read back with an independent reader."""

import resource
from collections.abc import Iterator

import numpy as np
import pytest

from ldarnet.errors import UserError
from ldarnet.genomics import writers
from ldarnet.genomics.stitching import ChunkTable
from ldarnet.io.files import NotWritableError

bigwig = pytest.importorskip("pyBigWig", reason="pyBigWig, an independent reader, is not installed")
pytest.importorskip("pybigtools", reason="pybigtools is not installed")

SIZES = {"chr2": 5000, "chr10": 200, "unused": 9}
RNG = np.random.default_rng(0)
PROBABILITIES = RNG.random(4000).astype(np.float32)
PROBABILITIES[100:900] = np.nan
PROBABILITIES[2000:2100] = 0.25
VALUES = [
    ("chr10", 7, np.array([0.5, 0.5, np.nan, 0.1], np.float32)),
    ("chr2", 0, PROBABILITIES[:2050]),
    ("chr2", 2050, PROBABILITIES[2050:]),
    ("chr2", 4500, np.array([-2.71828, 0], np.float32)),
]
TABLE = ChunkTable(
    np.array([3, 7]), np.array([7, 12]), np.array([0.98765, np.nan], np.float32), np.array([0.25, 0.12345], np.float32)
)


def expected(contig: str) -> np.ndarray:
    values = np.full(SIZES[contig], np.nan, np.float32)
    for name, position, block in VALUES:
        if name == contig:
            values[position : position + len(block)] = block.astype(np.float64).round(4)
    return values


def test_a_bigwig_has_the_values(tmp_path):
    writers.write_bigwig(tmp_path / "x.bw", SIZES, VALUES)
    with bigwig.open(str(tmp_path / "x.bw")) as file:
        assert file.isBigWig() and file.chroms() == {"chr10": 200, "chr2": 5000}
        for contig in file.chroms():
            found = file.values(contig, 0, SIZES[contig], numpy=True)
            np.testing.assert_array_equal(found.astype(np.float32), expected(contig))
        assert file.stats("chr2", 0, 4000, exact=True)[0] == pytest.approx(np.nanmean(PROBABILITIES), abs=1e-4)


def test_a_bedgraph_has_the_values_of_the_bigwig(tmp_path):
    writers.write_bedgraph(tmp_path / "x.bedgraph", SIZES, VALUES)
    rows = [line.split("\t") for line in (tmp_path / "x.bedgraph").read_text().splitlines()]
    assert rows[:2] == [["chr10", "7", "9", "0.5"], ["chr10", "10", "11", "0.1"]]
    assert rows[-2:] == [["chr2", "4500", "4501", "-2.7183"], ["chr2", "4501", "4502", "0"]]
    places = [(contig, int(start), int(end)) for contig, start, end, _ in rows]
    assert places == sorted(places) and all(start < end for _, start, end in places)
    for contig in ("chr10", "chr2"):
        found = np.full(SIZES[contig], np.nan, np.float32)
        for name, start, end, value in rows:
            if name == contig:
                found[int(start) : int(end)] = float(value)
        np.testing.assert_array_equal(found, expected(contig))


def test_bed_and_bigbed_have_the_chunks(tmp_path):
    writers.write_bed(tmp_path / "x.bed", SIZES, [("chr10", TABLE)], "-")
    lines = (tmp_path / "x.bed").read_text().splitlines()
    assert lines == ["chr10\t3\t7\t4\t988\t-\t0.9876\t0.25", "chr10\t7\t12\t5\t0\t-\t0\t0.1235"]
    writers.write_bigbed(tmp_path / "x.bb", SIZES, [("chr10", TABLE)], "-")
    with bigwig.open(str(tmp_path / "x.bb")) as file:
        found = file.entries("chr10", 0, 200)
        assert [f"chr10\t{start}\t{end}\t{rest}" for start, end, rest in found] == lines
        assert b"meanProbability" in file.SQL()


class StopError(Exception):
    """Raised by an iterator of values."""


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_errors_while_values_are_computed_are_raised(tmp_path, error, capfd):
    def values() -> Iterator[tuple[str, int, np.ndarray]]:
        yield VALUES[0]
        raise error

    with pytest.raises(error):
        writers.write_bigwig(tmp_path / "x.bw", SIZES, values())
    assert capfd.readouterr().err == ""


def test_a_file_that_cannot_be_written_completely_is_an_error(tmp_path):
    random = RNG.random(200_000).astype(np.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(NotWritableError, match=r"x\.bw: written incompletely; free some space"):
            writers.write_bigwig(tmp_path / "x.bw", {"c": 200_000}, [("c", 0, random)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_without_values_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"x\.bw: no base with a value, or no whole chunk, in the regions"):
        writers.write_bigwig(tmp_path / "x.bw", SIZES, [("chr2", 0, np.full(9, np.nan, np.float32))])
