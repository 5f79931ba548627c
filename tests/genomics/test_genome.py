"""Records, coordinates in names, renamed contigs, and selection of regions."""

import gzip

import pytest

from ldarnet.errors import UserError
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.regions import select, selected_bases
from tests.support.genomics import random_bases, write_genome
from tests.support.twobit_writer import write_2bit


@pytest.fixture
def genome(tmp_path):
    contigs = {"chr2": random_bases(300), "chr10": random_bases(90, 1), "chrM": random_bases(20, 2)}
    return Genome(write_genome(tmp_path / "g.fa", contigs))


def intervals(genome, *regions, bed=None):
    names = {record.number: record.contig for record in genome.records}
    return [(names[number], *row) for number, rows in select(genome, regions, bed).items() for row in rows.tolist()]


def test_records_are_sorted_and_read_in_the_order_of_the_file(genome):
    assert [record.contig for record in genome.records] == ["chr10", "chr2", "chrM"]
    assert genome.sizes == {"chr10": 90, "chr2": 300, "chrM": 20}
    assert [number for number, _ in genome.sequences({2, 0})] == [0, 2]
    assert dict(genome.sequences({1})) == {1: random_bases(90, 1).encode()}
    assert not list(genome.sequences(set()))


def test_the_form_of_the_file_does_not_matter(genome, tmp_path):
    contigs = {"chr2": random_bases(300), "chr10": random_bases(90, 1).lower(), "chrM": random_bases(20, 2)}
    (tmp_path / "g.fa.gz").write_bytes(gzip.compress(genome.path.read_bytes()))
    write_2bit(tmp_path / "g.2bit", contigs)
    for name in ("g.fa.gz", "g.2bit"):
        other = Genome(tmp_path / name)
        assert other.records == genome.records and other.sizes == genome.sizes


def test_coordinates_in_names_are_used_if_they_fit_the_length(tmp_path):
    contigs = {"chr7:1001-1020": "A" * 20, "chr7:1-30": "C" * 30, "chr8:1-5": "ACGT", "c:0-2": "AC"}
    genome = Genome(write_genome(tmp_path / "g.fa", contigs))
    places = {(record.contig, record.start, record.end) for record in genome.records}
    assert places == {("chr7", 1000, 1020), ("chr7", 0, 30), ("chr8:1-5", 0, 4), ("c:0-2", 0, 2)}
    assert genome.sizes["chr7"] == 1020
    assert intervals(genome, "chr7") == [("chr7", 1000, 1020), ("chr7", 0, 30)]
    assert intervals(genome, "chr7:1,001-1,003", "chr8:1-5") == [("chr7", 1000, 1003), ("chr8:1-5", 0, 4)]
    with pytest.raises(UserError, match=r"chr7:25-40 is not within one of the parts of this contig \(1-30, 1,001-1,0"):
        select(genome, ["chr7:25-40"])


@pytest.mark.parametrize("names", [["a", "a"], ["a:1-4", "a:4-7"], ["a", "a:3-6"]])
def test_overlapping_records_are_an_error(tmp_path, names):
    (tmp_path / "g.fa").write_text("".join(f">{name}\nACGT\n" for name in names))
    with pytest.raises(UserError, match=r"g\.fa: two records cover a:\d; rename or remove one of them"):
        Genome(tmp_path / "g.fa")


def test_contigs_are_renamed(tmp_path):
    path = write_genome(tmp_path / "g.fa", {"1": "ACGT", "2:11-14": "ACGT", "x": "AC"})
    genome = Genome(path, {"1": "chr1", "2": "chr2", "unused": "chr3"})
    assert genome.sizes == {"chr1": 4, "chr2": 14, "x": 2}
    with pytest.raises(UserError, match=r"g\.fa: no contig is named unused or another name in column 1 of --rename"):
        Genome(path, {"unused": "chr3"})


def test_regions_are_merged_and_may_come_from_a_bed_file(genome, tmp_path):
    bed = tmp_path / "r.bed"
    bed.write_text("# comment\nchr2\t0\t10\tname\nchr2\t5\t20\nchrM\t19\t20\n")
    assert intervals(genome, "chr10:1-1", "chr2:21-30", bed=bed) == [
        ("chr2", 0, 30),
        ("chr10", 0, 1),
        ("chrM", 19, 20),
    ]
    assert intervals(genome, "chr2:100-200", "chr2:1-50") == [("chr2", 0, 50), ("chr2", 99, 200)]
    assert selected_bases(select(genome)) == 410
    assert intervals(genome, "chr10") == [("chr10", 0, 90)]


ERRORS = {
    "chr3": "--region chr3: no contig chr3 in g.fa; its contigs are chrM, chr10, chr2",
    "2:1-9": "--region 2:1-9: no contig 2 in g.fa; this genome calls it chr2: use this name, or rename the contigs of "
    "the genome with --rename",
    "MT:1-9": "--region MT:1-9: no contig MT in g.fa; this genome calls it chrM: use this name, or rename",
    "chr2:1-301": "--region chr2:1-301: chr2:1-301 extends beyond the end of the contig (300 bases) in g.fa; is it of "
    "another assembly?",
    "chr2:0-9": "--region chr2:0-9: not a region; write contig:start-end with positions from 1",
    "chr2:9-8": "--region chr2:9-8: empty, because it ends before it starts; write contig:start-end",
    "chr2:,-8": "--region chr2:,-8: not a region",
    "chr2:5": "--region chr2:5: no contig chr2:5 in g.fa; its contigs are chr2, chr10, chrM",
}


@pytest.mark.parametrize("region", ERRORS)
def test_wrong_regions_are_errors(genome, region):
    with pytest.raises(UserError) as caught:
        select(genome, [region])
    message = str(caught.value).replace(f"{genome.path.parent}/", "")
    assert message.startswith(ERRORS[region]) and "\n" not in message


def test_wrong_lines_of_bed_files_are_errors(genome, tmp_path):
    bed = tmp_path / "r.bed"
    for text, message in (
        ("chr2\t0\t5\nchr2\t0\t999\n", "line 2: chr2:1-999 extends beyond the end of the contig"),
        ("2\t0\t5\n", "line 1: no contig 2 in .* this genome calls it chr2"),
        ("chr2\t5\t5\n", "line 1: chr2:5-5 is empty"),
        ("", "no intervals"),
    ):
        bed.write_text(text)
        with pytest.raises(UserError, match=rf"r\.bed: {message}"):
            select(genome, bed=bed)
