"""Variants of the yeast benchmark: kinds, matches and strands."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.yeast_variants import CODE, Gene, build_variants, chromosome_names, kmer_ratios, main
from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.genome.annotation import Transcript
from ldarnet.genomics.enrichment.features import load_annotation
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.variants.alleles import Allele
from ldarnet.model import write_model
from tests.support.genomics import random_bases, write_genome

DATA = Path(__file__).parents[3] / "shared/data/genome_yeast_S288C"
COMPLEMENT = str.maketrans("ACGT", "TGCA")
CODING = "ATG" + "CTGCAATTAGGTTGGAAATCACGA" * 4 + "TAA"
INTRON = "GTATGT" + "A" * 20 + "CAG"
GENE = CODING[:50] + INTRON + CODING[50:]


@pytest.fixture
def genome(tmp_path) -> Genome:
    left, right = random_bases(40), random_bases(30, 1)
    turned = GENE[::-1].translate(COMPLEMENT)
    return Genome(write_genome(tmp_path / "g.fa", {"I": left + GENE + right, "II": left + turned + right}))


def transcripts() -> list[Transcript]:
    parts = [(40, 90), (90 + len(INTRON), 40 + len(GENE))]
    turned = [(40, 40 + len(CODING) - 50), (40 + len(GENE) - 50, 40 + len(GENE))]
    return [Transcript.of("I", "+", parts, parts), Transcript.of("II", "-", turned, turned)]


def coding(genome: Genome, contig: str, at: int | None = None, alt: str = "") -> str:
    """Coding sequence of a gene after a change of the forward strand."""
    record = next(record for record in genome.records if record.contig == contig)
    ((_, sequence),) = genome.sequences({record.number})
    text = sequence.decode()
    if at is not None:
        text = text[:at] + alt + text[at + 1 :]
    transcript = next(t for t in transcripts() if t.contig == contig)
    joined = "".join(text[start:end] for start, end in transcript.coding)
    return joined[::-1].translate(COMPLEMENT) if transcript.strand == "-" else joined


def protein(text: str) -> str:
    return "".join(CODE[text[at : at + 3]] for at in range(0, len(text), 3))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_variants_have_the_effect_of_their_kind_and_matches_have_none(genome, seed):
    alleles, kinds, labeled = build_variants(genome, transcripts(), 10, seed)
    assert {*zip(kinds, [a.contig for a in alleles], strict=True)} == {
        (kind, contig) for kind in ("start_loss", "stop_gain", "splice_site") for contig in ("I", "II")
    }
    for pair in range(len(alleles) // 2):
        damaging, match = alleles[2 * pair : 2 * pair + 2]
        kind = kinds[2 * pair]
        assert labeled.labels[2 * pair : 2 * pair + 2].tolist() == [True, False]
        assert (damaging.contig, damaging.ref, damaging.alt) == (match.contig, match.ref, match.alt)
        before = coding(genome, damaging.contig)
        assert before == CODING
        after = coding(genome, damaging.contig, damaging.position, damaging.alt)
        synonymous = coding(genome, match.contig, match.position, match.alt)
        assert synonymous != before and protein(synonymous) == protein(before)
        if kind == "start_loss":
            assert after[:3] != "ATG" and after[3:] == before[3:]
        elif kind == "stop_gain":
            assert 0 < protein(after).index("*") < len(before) // 3 - 1
        else:
            assert after == before


def test_ratios_of_kmers_are_those_of_counts(tmp_path):
    contigs = {"I": random_bases(3000), "II": "ACGTN" * 30 + random_bases(500, 1)}
    genome = Genome(write_genome(tmp_path / "g.fa", contigs))
    both = [text for bases in contigs.values() for text in (bases, bases[::-1].translate(COMPLEMENT))]

    def count(kmer: str) -> int:
        return 1 + sum(text[at : at + len(kmer)] == kmer for text in both for at in range(len(text)))

    alleles, expected = [], []
    for contig, at in (("I", 3), ("I", 700), ("II", 400), ("II", 10), ("I", 2), ("I", 2998)):
        text = contigs[contig]
        alt = "CAGT"["ACTG".index(text[at])]
        alleles.append(Allele(1, contig, at, text[at], alt))
        ref = text[at - 3 : at + 4]
        known = len(ref) == 7 and "N" not in ref
        expected.append(np.log(count(ref[:3] + alt + ref[4:]) / count(ref)) if known else np.nan)
    assert np.isnan(expected).sum() == 3
    np.testing.assert_allclose(kmer_ratios(genome, alleles), expected)


def test_incomplete_genes_are_skipped():
    for text in ("ATGAAATAAAAATAA", "CTGAAATAA", "ATGAANTAA", "ATGAAAAAA", "ATGAAATA", "ATGTAA"):
        whole = [(0, len(text))]
        assert not Gene(Transcript.of("I", "+", whole, whole), text).is_complete()
    assert Gene(Transcript.of("I", "+", [(0, 9)], [(0, 9)]), "ATGAAATAA").is_complete()


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the yeast genome")
def test_variants_of_yeast_agree_with_its_genome():
    from ldarnet.genomics.variants.run import locate

    (fasta,) = DATA.glob("*.fsa.gz")
    (gff,) = DATA.glob("*.gff3.gz")
    genome = Genome(fasta, chromosome_names(fasta))
    found = [t for t in load_annotation(gff).transcripts if t.coding and t.contig in genome.sizes]
    alleles, kinds, labeled = build_variants(genome, found, 300, 0)
    locate(genome, alleles, "variant")
    counts = {kind: kinds.count(kind) // 2 for kind in sorted({*kinds})}
    assert min(counts.values()) > 150, counts
    assert np.array_equal(labeled.groups, np.arange(len(alleles)) // 2)


def test_the_program_writes_a_page_with_all_kinds(genome, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    pytest.importorskip("sklearn")
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny")), tmp_path / "model")
    (tmp_path / "model" / "config.yaml").write_text("data:\n  length: 32\n")
    lines = ["##gff-version 3"]
    for transcript in transcripts():
        for kind, parts in (("exon", transcript.exons), ("CDS", transcript.coding)):
            for start, end in parts:
                fields = (transcript.contig, "x", kind, start + 1, end, ".", transcript.strand, ".", "Parent=t1")
                lines.append("\t".join(map(str, fields)))
    (tmp_path / "g.gff3").write_text("\n".join(lines) + "\n")
    arguments = [tmp_path / "model", genome.path, tmp_path / "g.gff3", "--out", tmp_path, "--resamples", 5]
    main([*map(str, arguments), "--device", "cpu"])
    (page,) = tmp_path.glob("*-yeast-variants.md")
    text = page.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## all",
        "## start_loss",
        "## stop_gain",
        "## splice_site",
    ]
    assert "- Window: 32 bases" in text and text.count("| -llr | all | ") == text.count("| -llr_of_7mers | all | ") == 4
    assert str(page) in capsys.readouterr().out
