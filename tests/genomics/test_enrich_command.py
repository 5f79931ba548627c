"""`ldarnet enrich`, from files to files."""

import csv
import gzip
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ldarnet import LDARNetForMaskedLM
from ldarnet.errors import UserError
from ldarnet.genomics.enrichment.features import load_annotation
from ldarnet.genomics.enrichment.motifs import motif_hits, read_motifs
from ldarnet.model import load_model, write_model
from tests.genomics.test_enrichment import context_of, random_rule
from tests.support.chromium import find_chromium, visit
from tests.support.genomics import random_bases, save, write_genome

pytest.importorskip("matplotlib")
pytest.importorskip("logomaker")

GENOME = {"chr1": random_bases(3000), "chr2": random_bases(1500, 1)}
STARTS = range(100, 1300, 60)
SMALL = ("--window", "64", "--device", "cpu", "--permutations", "39", "--shuffled-loci", "2", "--block", "500")
SMALL += ("--flank", "20")
MEME = """MEME version 4

ALPHABET= ACGT

Background letter frequencies (from file):
A 0.3 C 0.2 G 0.2 T 0.3

MOTIF TATA
letter-probability matrix: alength= 4 w= 4 nsites= 100 E= 0
 0 0 0 1
 1 0 0 0
 0 0 0 1
 1 0 0 0

MOTIF ODDS other
log-odds matrix: alength= 4 w= 2 E= 0
 100 -500 -500 -500
 -500 100 -500 -500
"""
GFF = """##gff-version 3
chr1\ts\tmRNA\t101\t1000\t.\t+\t.\tID=a
chr1\ts\texon\t101\t200\t.\t+\t.\tParent=a
chr1\ts\texon\t501\t1000\t.\t+\t.\tParent=a
chr1\ts\tCDS\t151\t200\t.\t+\t0\tParent=a
chr1\ts\tCDS\t501\t900\t.\t+\t0\tParent=a
chr2\ts\texon\t101\t200\t.\t-\t.\tParent=b
chr2\ts\texon\t301\t400\t.\t-\t.\tParent=b,c
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def genome(tmp_path) -> Path:
    return write_genome(tmp_path / "g.fa", GENOME)


@pytest.fixture
def sites(tmp_path) -> Path:
    path = tmp_path / "sites.bed"
    path.write_text("".join(f"chr{1 + i % 2}\t{s}\t{s + 8}\tx\t0\t{'+-'[i % 2]}\n" for i, s in enumerate(STARTS)))
    return path


@pytest.fixture
def enrich(ldarnet, tmp_path, model, genome):
    return partial(ldarnet, "enrich", model, genome, "--out", tmp_path / "out", *SMALL)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_study_has_tables_a_figure_and_a_report(enrich, sites, tmp_path):
    (tmp_path / "m.meme").write_text(MEME)
    status, printed, _ = enrich(
        "--annotation", f"box={sites}", "--motifs", tmp_path / "m.meme", "--motif", "TATA", "--motif-p", "0.01"
    )
    out = tmp_path / "out"
    assert status == 0
    assert printed == (
        f"wrote {out}: enrichment.csv, profiles.csv, kmers.csv, classes.csv, fragmentation.csv, "
        "robustness.csv, report.html, figures/\n"
    )
    rows = rows_of(out / "enrichment.csv")
    assert {row["feature"] for row in rows} == {"box", "motif TATA"}
    assert len(rows) == 12
    assert all(0 < float(row["p"]) <= float(row["q"]) <= 1 for row in rows)
    assert rows[0]["n"] == "20"
    assert [row["k"] for row in rows_of(out / "kmers.csv")] == list("123456")
    classes = {row["region"]: row for row in rows_of(out / "classes.csv")}
    assert {"all", "homopolymer"} <= classes.keys()
    assert float(classes["all"]["bases_per_chunk"]) == pytest.approx(
        int(classes["all"]["bases"]) / int(classes["all"]["boundaries"]), rel=1e-4
    )
    fragments = rows_of(out / "fragmentation.csv")
    assert [(row["feature"], row["tokens"]) for row in fragments[:2]] == [("box", "model"), ("box", "6-mers")]
    assert [row["bases"] for row in fragments] == ["8", "8", "4", "4"]
    profile = [row for row in rows_of(out / "profiles.csv") if row["feature"] == "box"]
    assert [int(row["offset"]) for row in profile] == list(range(-20, 21))
    before = files_of(out)
    enrich("--annotation", f"box={sites}", "--motifs", tmp_path / "m.meme", "--motif", "TATA", "--motif-p", "0.01")
    assert files_of(out) == before


def files_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of all files but PNG."""
    return {path.name: path.read_bytes() for path in folder.rglob("*.*") if path.suffix != ".png"}


def test_the_page_explains_each_figure_and_links_its_files(enrich, sites, tmp_path):
    (tmp_path / "m.meme").write_text(MEME.replace("MOTIF TATA", "MOTIF <b>$x"))
    (tmp_path / "a.gff3").write_text(GFF)
    words = ("--annotation", f"box={sites}", "--annotation", tmp_path / "a.gff3", "--motifs", tmp_path / "m.meme")
    assert enrich(*words, "--motif-p", "0.07", "--flank", "5")[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>$x" not in page
    assert "motif &lt;b&gt;$x" in page
    assert "tss: not compared, because only" in page
    captions = re.findall(r"<figure.*?<p>(.*?)</p>", page, re.DOTALL)
    titles = re.findall(r"<figure.*?<h3>(.*?)</h3>", page, re.DOTALL)
    assert len(captions) == len(titles) > 10
    assert all("How to read:" in caption and re.search(r"\bn( =|:)", caption) for caption in captions)
    assert {"Features against null models", "box", "Chunk lengths", "Bases at boundaries", "Motifs"} <= set(titles)
    linked = re.findall(r'href="(figures/[^"]+)"', page)
    assert len(linked) == 2 * len(titles)
    assert {f"figures/{path.name}" for path in (tmp_path / "out" / "figures").iterdir()} == set(linked)
    assert all((tmp_path / "out" / name).read_bytes()[:5] in (b"\x89PNG\r", b"<?xml") for name in linked)


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")
def test_the_page_needs_no_other_file_and_fits_the_window(enrich, sites, tmp_path):
    assert enrich("--annotation", f"box={sites}", "--windows", "0")[0] == 0

    async def look(tab) -> tuple[int, bool]:
        await tab.wait_for("document.readyState === 'complete'")
        broken = await tab.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
        return broken, await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")

    assert visit(f"file://{tmp_path / 'out' / 'report.html'}", look) == (0, True)


def test_robustness_compares_strands_edits_and_models(enrich, sites, model, tmp_path):
    network = load_model(model, LDARNetForMaskedLM)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj" in name:
                parameter += torch.randn_like(parameter)
    write_model(network, other := tmp_path / "other")
    assert enrich("--annotation", sites, "--other", model, "--other", other, "--windows", "4")[0] == 0
    rows = {row["measure"]: row for row in rows_of(tmp_path / "out" / "robustness.csv")}
    assert float(rows[f"{model}: Jaccard index"]["value"]) == 1
    different = rows[f"{other}: Jaccard index"]
    assert 0 <= float(different["low"]) <= float(different["value"]) <= float(different["high"]) < 1
    assert rows["deletion: boundaries that change at other bases"]["n"] == "8"
    assert {"strands: Jaccard index", "strands: correlation of probabilities"} <= rows.keys()
    enrich("--annotation", sites, "--windows", "0")
    assert rows_of(tmp_path / "out" / "robustness.csv") == []


def test_kinds_with_few_loci_are_named_and_not_compared(enrich, sites, tmp_path):
    few = tmp_path / "few.bed"
    few.write_text("chr1\t500\t510\n")
    assert enrich("--annotation", sites, "--annotation", few)[0] == 0
    assert {row["feature"] for row in rows_of(tmp_path / "out" / "enrichment.csv")} == {"sites"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "few: not compared, because only 1 loci are in the regions" in page


@pytest.mark.parametrize("compressed", [False, True])
def test_gene_features_are_built_from_exons_and_coding_segments(tmp_path, compressed):
    path = tmp_path / ("a.gff3.gz" if compressed else "a.gff3")
    path.write_bytes(gzip.compress(GFF.encode()) if compressed else GFF.encode())
    places = load_annotation(path).places
    assert places["tss"] == [("chr1", 100, 100, "+"), ("chr2", 400, 400, "-"), ("chr2", 400, 400, "-")]
    assert places["transcript_end"][:2] == [("chr1", 1000, 1000, "+"), ("chr2", 100, 100, "-")]
    assert places["splice_donor"] == [("chr1", 200, 200, "+"), ("chr2", 300, 300, "-")]
    assert places["splice_acceptor"] == [("chr1", 500, 500, "+"), ("chr2", 200, 200, "-")]
    assert places["start_codon"] == [("chr1", 150, 150, "+")]
    assert places["stop_codon"] == [("chr1", 900, 900, "+")]


def test_gtf_transcripts_have_the_same_features_as_those_of_gff3(tmp_path):
    (tmp_path / "a.gff3").write_text(GFF)
    lines = []
    for line in GFF.splitlines()[2:]:
        columns = line.split("\t")
        parents = columns[8].removeprefix("Parent=").split(",")
        lines += ["\t".join([*columns[:8], f'gene_id "g"; transcript_id "{parent}";']) for parent in parents]
    (tmp_path / "a.gtf").write_text("\n".join(lines) + "\n")
    assert load_annotation(tmp_path / "a.gtf").places == load_annotation(tmp_path / "a.gff3").places


def test_motif_hits_are_those_of_the_word_on_both_strands(tmp_path):
    (tmp_path / "m.meme").write_text(MEME)
    tata, odds = read_motifs(tmp_path / "m.meme")
    assert (tata.name, odds.name) == ("TATA", "ODDS")
    assert np.argmax(odds.probability, axis=1).tolist() == [0, 1]
    bases = random_bases(4000)
    context = context_of(tmp_path, bases, random_rule)
    found = motif_hits(tata, context.landscape, 0.01)
    assert found == [("c", at, at + 4, "+") for at in range(len(bases)) if bases[at : at + 4] == "TATA"]
    hits = motif_hits(odds, context.landscape, 0.07)
    assert hits == [
        ("c", at, at + 2, "+" if bases[at : at + 2] == "AC" else "-")
        for at in range(len(bases))
        if bases[at : at + 2] in ("AC", "GT")
    ]
    assert motif_hits(odds, context.landscape, 1e-6) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_motif_with_two_matrices_is_one_motif_of_its_probabilities(tmp_path, order):
    matrices = ("letter-probability matrix: w= 1\n 0 0 1 0\n", "log-odds matrix: w= 1\n 100 -500 -500 -500\n")
    (tmp_path / "m.meme").write_text("MOTIF G\n" + "\n".join(matrices[number] for number in order) + MEME)
    found = read_motifs(tmp_path / "m.meme")
    assert [motif.name for motif in found] == ["G", "TATA", "ODDS"]
    assert np.argmax(found[0].probability) == 2


def test_two_motifs_of_one_name_are_an_error(tmp_path):
    (tmp_path / "m.meme").write_text(MEME + MEME)
    with pytest.raises(UserError, match="several motifs TATA"):
        read_motifs(tmp_path / "m.meme")


@pytest.mark.parametrize(("features", "noted"), [("tss", True), ("start_codon", False)])
def test_an_annotation_without_untranslated_regions_is_noted_where_it_matters(enrich, tmp_path, features, noted):
    lines = ["##gff-version 3"]
    for at in range(101, 2900, 200):
        lines += [f"chr1\ts\t{kind}\t{at}\t{at + 90}\t.\t+\t.\tParent=t{at}" for kind in ("exon", "CDS")]
    (tmp_path / "a.gff3").write_text("\n".join(lines) + "\n")
    assert enrich("--annotation", tmp_path / "a.gff3", "--features", features, "--windows", "0")[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("have no untranslated regions" in page) == noted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no features; give --annotation FILE or --motifs FILE"),
        (("--annotation", "genes.gff3", "--features", "start_codon"), "'start_codon': no such features in"),
        (("--annotation", "other.bed"), "no contig 1 in {genome}; this genome calls it chr1: use this name"),
        (("--annotation", "far.bed"), "chr2:99,999 extends beyond the end of the contig (1,500 bases) in"),
        (("--annotation", "sites.bed", "--annotation", "sites.bed"), "two files have features 'sites'"),
        (("--annotation", "sites.bed", "--region", "chr1:1-50"), "fewer than 10 loci of each kind"),
        (("--annotation", "sites.bed", "--region", "chr3"), "--region chr3: no contig chr3"),
        (("--annotation", "sites.bed", "--stage", "3"), "stage 3: this model has chunks only at stage 0"),
        (("--annotation", "empty.bed"), "empty.bed: no intervals"),
        (("--annotation", "nogenes.gff3"), "nogenes.gff3: no exon or CDS with a parent transcript"),
        (("--motifs", "empty.bed"), "empty.bed: no motifs"),
        (("--motifs", "m.meme", "--motif", "GATA"), "--motif GATA: not in"),
        (("--motifs", "bad.meme"), "motif X: not a matrix of probabilities"),
    ],
)
def test_bad_input_is_one_clear_error(enrich, sites, genome, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("genes.gff3").write_text("##gff-version 3\nchr1\ts\texon\t11\t20\t.\t+\t.\tParent=a\n")
    Path("nogenes.gff3").write_text("##gff-version 3\nchr1\ts\tgene\t11\t20\t.\t+\t.\tID=a\n")
    Path("other.bed").write_text("1\t5\t10\n")
    Path("far.bed").write_text("chr2\t5\t99999\n")
    Path("empty.bed").write_text("# nothing\n")
    Path("m.meme").write_text(MEME)
    Path("bad.meme").write_text("MOTIF X\nletter-probability matrix: w= 1\n -1 1 1 0\n")
    status, printed, errors = enrich(*arguments)
    assert (status, printed) == (1, "")
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message.format(genome=genome) in line


@pytest.mark.parametrize("line", ["chr1\t5", "chr1\tx\t9", "chr1\t9\t5", "chr1\t5\t5"])
def test_malformed_bed_lines_are_errors(tmp_path, line):
    (tmp_path / "a.bed").write_text(f"chr1\t1\t2\n{line}\n")
    with pytest.raises(UserError, match="line 2"):
        load_annotation(tmp_path / "a.bed")
