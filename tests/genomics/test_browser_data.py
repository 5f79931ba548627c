"""What the genome browser shows: sequences, rows of tracks, genes, chunks and distributions."""

import gzip

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.errors import UserError
from ldarnet.genomics.browser.annotation import GeneTrack
from ldarnet.genomics.browser.features import BigBedRows, SortedRows, chunk_features, first_position, value_features
from ldarnet.genomics.browser.predictions import MAX_PASTED_BASES, BasePredictor, clean_sequence
from ldarnet.genomics.browser.sequence import SequenceStore
from ldarnet.genomics.genome import Genome
from ldarnet.interpret import boundary_track
from tests.support.genomics import ids_of, random_bases, write_genome

SIZES = {"chr1": 400, "chr10": 90, "chr2": 300}
GFF = """##gff-version 3
I\tsgd\tchromosome\t1\t400\t.\t.\t.\tID=chromosome:I
I\tsgd\tgene\t11\t200\t.\t-\t.\tID=gene:Y1;Name=ACT%201;description=known "by" name
I\tsgd\tmRNA\t11\t200\t.\t-\t.\tID=transcript:Y1_mRNA;Parent=gene:Y1
I\tsgd\texon\t151\t200\t.\t-\t.\tParent=transcript:Y1_mRNA
I\tsgd\texon\t11\t100\t.\t-\t.\tParent=transcript:Y1_mRNA
I\tsgd\tCDS\t151\t180\t.\t-\t0\tID=CDS:Y1;Parent=transcript:Y1_mRNA
I\tsgd\tCDS\t31\t100\t.\t-\t0\tID=CDS:Y1;Parent=transcript:Y1_mRNA
I\tsgd\tpseudogene\t301\t350\t.\t+\t.\tID=gene:Y2
Mito\tsgd\tgene\t1\t9\t.\t+\t.\tID=gene:Q1
"""


def region(contig, start, end):
    return {"contig": contig, "start": str(start), "end": str(end)}


@pytest.fixture
def store(tmp_path):
    contigs = {"chr2": random_bases(300), "chr1:101-200": random_bases(100, 1)}
    return SequenceStore(Genome(write_genome(tmp_path / "g.fa", contigs)))


def test_bases_are_read_by_position(store):
    chr1 = "N" * 100 + random_bases(100, 1)
    assert store.sizes == {"chr1": 200, "chr2": 300}
    assert store.read("chr2", 17, 80) == random_bases(300)[17:80].encode()
    assert store.read("chr1", 90, 120) == chr1[90:120].encode()
    assert store.record_at("chr1", 99) is None and store.record_at("chr3", 0) is None
    assert store.record_at("chr1", 199).start == 100


def test_the_index_locates_the_contigs(store):
    content = store.content(0, store.length)
    for line in store.index().splitlines():
        name, size, offset, bases, width = line.split("\t")
        assert int(bases) == int(size) == int(width) - 1 == store.sizes[name]
        assert content[int(offset) : int(offset) + int(width)] == store.read(name, 0, int(size)) + b"\n"
    for first, length in ((0, 1), (150, 100), (199, 3), (store.length - 1, 1)):
        assert store.content(first, length) == content[first : first + length]


def made_chunks(seed=0):
    """Rows of disjoint chunks, sorted, with gaps."""
    rng, rows = np.random.default_rng(seed), []
    for contig, size in SIZES.items():
        edges = np.unique(rng.integers(0, size, size // 4))
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if rng.random() < 0.9:
                rows.append((contig, start, end, f"{end - start}\t500\t.\t{start / 1000:g}\t0.25"))
    return rows


def write_rows(path, rows):
    path.write_text("".join(f"{contig}\t{start}\t{end}\t{rest}\n" for contig, start, end, rest in rows))
    return path


def test_rows_of_a_region_are_those_that_overlap_it(tmp_path):
    rows = made_chunks()
    query = chunk_features(SortedRows(write_rows(tmp_path / "c.bed", rows), SIZES))
    for contig, size in SIZES.items():
        for start in range(0, size, 7):
            for end in (start + 1, start + 30, size):
                found = [row[:2] for row in query(region(contig, start, end))]
                expected = [[s, e] for name, s, e, _ in rows if name == contig and s < end and e > start]
                assert found == expected
    assert query(region("chr1", rows[0][1], rows[0][1] + 1))[0][2:] == [rows[0][1] / 1000, 0.25]
    assert query(region("chr3", 0, 100)) == [] and query(region("chr1", 10**9, 10**9 + 1)) == []


def test_bigbed_has_the_same_rows(tmp_path):
    pybigtools = pytest.importorskip("pybigtools")
    from ldarnet.genomics.writers import CHUNK_COLUMNS

    rows = made_chunks()
    pybigtools.open(str(tmp_path / "c.bb"), "w").write(SIZES, iter(rows), CHUNK_COLUMNS)
    text = chunk_features(SortedRows(write_rows(tmp_path / "c.bed", rows), SIZES))
    binary = chunk_features(BigBedRows(tmp_path / "c.bb", SIZES))
    for where in (region("chr1", 30, 200), region("chr10", 0, 90), region("chr3", 0, 9)):
        assert binary(where) == text(where)
    assert first_position(tmp_path / "c.bb") == first_position(tmp_path / "c.bed") == rows[0][:2]
    with pytest.raises(UserError, match="no contig chr1 of this length in the genome"):
        BigBedRows(tmp_path / "c.bb", SIZES | {"chr1": 401})
    (tmp_path / "damaged.bb").write_bytes((tmp_path / "c.bb").read_bytes()[:50])
    with pytest.raises(UserError, match=r"damaged.bb: damaged .*; run ldarnet tracks again"):
        BigBedRows(tmp_path / "damaged.bb", SIZES)


def test_bedgraph_rows_are_values(tmp_path):
    path = write_rows(tmp_path / "p.bedgraph", [("chr1", 0, 4, "0.5"), ("chr1", 4, 5, "0.25")])
    assert value_features(SortedRows(path, SIZES))(region("chr1", 3, 9)) == [[0, 4, 0.5], [4, 5, 0.25]]


def test_wrong_rows_and_regions_are_reported(tmp_path):
    with pytest.raises(UserError, match="no contig chrX of this length in the genome; choose the genome of these"):
        SortedRows(write_rows(tmp_path / "x.bed", [("chrX", 0, 4, "4")]), SIZES)
    with pytest.raises(UserError, match=r"y.bed: damaged"):
        SortedRows(write_rows(tmp_path / "y.bed", [("chr1", 0, "a", "4")]), SIZES)
    query = chunk_features(SortedRows(write_rows(tmp_path / "empty.bed", []), SIZES))
    assert query(region("chr1", 0, 5)) == []
    for wrong in ({}, region("chr1", "-1", 5), region("chr1", 0, "1e3"), region("chr1", 0, 10**7)):
        with pytest.raises(UserError):
            query(wrong)


@pytest.fixture
def gff(tmp_path):
    path = tmp_path / "genes.gff3.gz"
    path.write_bytes(gzip.compress(GFF.encode()))
    return path


def test_transcripts_have_exons_and_the_names_of_their_genes(gff):
    annotation = GeneTrack(gff, ["chr10", "chrI"])
    assert (annotation.count, dict(annotation.skipped)) == (2, {"Mito": 1})
    gene, pseudogene = annotation.query(region("chrI", 0, 400))
    assert (gene["name"], gene["start"], gene["end"], gene["strand"]) == ("ACT 1", 10, 200, "-")
    assert gene["exons"] == [
        {"start": 10, "end": 100, "utr": False, "cdStart": 30, "cdEnd": 100},
        {"start": 150, "end": 200, "utr": False, "cdStart": 150, "cdEnd": 180},
    ]
    assert pseudogene == {"start": 300, "end": 350, "strand": "+", "name": "Y2"}
    assert annotation.query(region("chrI", 199, 300)) == [gene]
    assert annotation.query(region("chrI", 200, 300)) == annotation.query(region("chr2", 0, 9)) == []
    assert annotation.first(["chr10", "chrI"]) == ("chrI", 10, 200)


def test_names_of_contigs_of_an_annotation(gff):
    assert GeneTrack(gff, ["I", "chrM"]).skipped == {}
    assert GeneTrack(gff, ["one"], {"I": "one"}).count == 2
    with pytest.raises(
        UserError, match=r"no contig of the genome \(this file has I, Mito\); map its names .* --rename"
    ):
        GeneTrack(gff, ["NC_001133"])


def test_intervals_of_a_bed_file(tmp_path):
    path = tmp_path / "sites.bed"
    path.write_text("# TATA\nchr2\t50\t58\nchr2\t5\t9\tTBP\t0\t-\n")
    found = GeneTrack(path, SIZES).query(region("chr2", 0, 300))
    assert [(row["start"], row["end"], row["name"], row["strand"]) for row in found] == [
        (5, 9, "TBP", "-"),
        (50, 58, "", "."),
    ]


def test_gtf_transcripts_have_the_names_of_their_genes(tmp_path):
    path = tmp_path / "genes.gtf"
    attributes = 'gene_id "Y1"; transcript_id "Y1_mRNA"; gene_name "ACT 1";'
    rows = [("gene", 11, 200), ("exon", 11, 100), ("exon", 151, 200), ("CDS", 31, 100), ("CDS", 151, 180)]
    path.write_text("".join(f"I\tx\t{kind}\t{a}\t{b}\t.\t-\t.\t{attributes}\n" for kind, a, b in rows))
    (gene,) = GeneTrack(path, ["I"]).query(region("I", 0, 400))
    assert (gene["name"], gene["start"], gene["end"], gene["cdStart"], gene["cdEnd"]) == ("ACT 1", 10, 200, 30, 180)
    assert [(exon["start"], exon["end"]) for exon in gene["exons"]] == [(10, 100), (150, 200)]


def test_an_annotation_without_genes_is_refused(tmp_path):
    path = tmp_path / "genes.gtf"
    path.write_text('I\tx\tgene\t1\t9\t.\t+\t.\tgene_id "a";\n')
    with pytest.raises(UserError, match="no genes; choose a GFF3 or GTF file with genes and exons, or a BED file"):
        GeneTrack(path, ["I"])


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    network = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).double().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter += 0.5 * torch.randn_like(parameter)
    return BasePredictor("tiny", network, 64)


@pytest.mark.parametrize(("contig", "position"), [("chr2", 150), ("chr2", 0), ("chr2", 299), ("chr1", 100)])
def test_the_distribution_is_that_of_the_masked_base_on_each_strand(store, predictor, contig, position):
    found = predictor.distribution(store, contig, position)
    start, end = found["start"], found["end"]
    assert end - start == 64 and start <= position < end
    if position == 150:
        assert start == 150 - 32
    ids = ids_of(store.read(contig, start, end).decode()).tolist()
    ids[position - start] = 5
    complement = [3, 2, 1, 0, 4, 5, 6]
    with torch.no_grad():
        forward = predictor._network(torch.tensor([ids])).logits[0, position - start, :4]
        opposite = predictor._network(torch.tensor([[complement[i] for i in reversed(ids)]])).logits[0]
    reverse = opposite[len(ids) - 1 - (position - start), [3, 2, 1, 0]]
    np.testing.assert_allclose(found["forward"], torch.softmax(forward, 0), atol=1e-6)
    np.testing.assert_allclose(found["reverse"], torch.softmax(reverse, 0), atol=1e-6)
    np.testing.assert_allclose(found["average"], np.add(found["forward"], found["reverse"]) / 2, atol=1e-6)


def test_positions_outside_the_sequences_are_refused(store, predictor):
    for contig, position in (("chr1", 99), ("chr1", 200), ("chr3", 0)):
        with pytest.raises(UserError, match="outside the sequences"):
            predictor.distribution(store, contig, position)


def test_chunks_of_a_short_sequence_are_those_of_the_model(predictor):
    bases = random_bases(60, 3)
    (chunks,) = predictor.chunks(bases)
    ((p, mask),) = boundary_track(predictor._network.model, ids_of(bases))
    starts = np.flatnonzero(mask).tolist()
    assert [chunk["start"] for chunk in chunks] == starts
    assert [chunk["end"] for chunk in chunks] == [*starts[1:], 60]
    np.testing.assert_allclose([chunk["p"] for chunk in chunks][1:], p[starts][1:], atol=1e-4)


def test_pasted_sequences():
    assert clean_sequence(">one two\nacgt ac\r\n\tGUn\n") == "ACGTACGUN"
    for text, message in ((">only\n", "no bases"), ("ACGTX", "'X' is not"), ("A" * (MAX_PASTED_BASES + 1), "at most")):
        with pytest.raises(UserError, match=message):
            clean_sequence(text)
