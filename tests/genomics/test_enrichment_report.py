"""Report of an enrichment study: verdicts, lengths, logos, views."""

import re
from dataclasses import replace

import numpy as np
import pytest

from ldarnet.genome.annotation import Transcript
from ldarnet.genomics.enrichment.lengths import chunks, lengths_by_class
from ldarnet.genomics.enrichment.logos import REACH, base_counts
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.report import verdict, write_report
from ldarnet.genomics.enrichment.results import StudyResults
from ldarnet.genomics.enrichment.study import EnrichmentRow
from tests.genomics.test_enrichment import context_of, loci_of, planted, planted_genome
from tests.support.genomics import ids_of

ROW = EnrichmentRow("tss", "", "probability", 20, 0.5, 0.2, 0.3, 0.2, 0.4, 1.0, 0.01, 0.01)


@pytest.mark.parametrize(
    ("changes", "direction", "text"),
    [
        ({}, "more", "more boundaries than under all 6 null models"),
        ({null: {"effect": -0.3} for null in NULLS}, "fewer", "fewer boundaries than under all 6 null models"),
        ({null: {"q": 0.05} for null in NULLS}, "none", "no difference from any null model"),
        (
            {"kmer_regression": {"q": 0.2}, "shifted": {"effect": -0.1}},
            "mixed",
            "more boundaries than under 4 of 6 null models (matched, dinucleotide shuffle, random boundaries, gaps "
            "permuted); fewer boundaries than under 1 of 6 null models (shifted); no difference from kmer regression",
        ),
        ({"matched": {"effect": np.nan, "q": np.nan}}, "more", "more boundaries than under all 5 null models"),
    ],
)
def test_a_verdict_names_the_null_models(changes, direction, text):
    rows = {null: replace(ROW, null=null, **changes.get(null, {})) for null in NULLS}
    assert verdict(rows) == (direction, text)


def test_chunks_end_at_boundaries_and_belong_to_the_class_of_both_ends(tmp_path):
    landscape = context_of(tmp_path, "ACGT" * 25, lambda ids: np.arange(len(ids)) % 5 == 0).landscape
    first, length = chunks(landscape)
    assert len(length) and (landscape.boundary[first] & landscape.boundary[first + length]).all()
    assert all(not landscape.boundary[a + 1 : a + n].any() for a, n in zip(first, length, strict=True))
    transcript = Transcript.of("c", "+", [(10, 33)], [(10, 33)])
    found = lengths_by_class(landscape, [transcript])
    at = landscape.coordinates(first)[1]
    assert len(found["coding"]) == ((at >= 10) & (at + length <= 33)).sum()
    assert len(found["all"]) == len(length)


def test_bases_around_loci_follow_the_strand(tmp_path):
    left, right = "GATTACAGCC", "TTTGGCACGA"
    context = context_of(tmp_path, "A" * 100 + left + right + "A" * 100, planted)
    at = int(context.landscape.offsets[0]) + 110
    forward = base_counts(context.landscape, np.array([at]), np.array([1]))
    reverse = base_counts(context.landscape, np.array([at]), np.array([-1]))
    assert forward.shape == (2 * REACH, 4)
    assert forward.argmax(axis=1).tolist() == ids_of(left + right).tolist()
    complement = str.maketrans("ACGT", "TGCA")
    assert reverse.argmax(axis=1).tolist() == ids_of((left + right).translate(complement)[::-1]).tolist()


@pytest.mark.parametrize("level", [0.0, 1.0], ids=["no boundary", "boundaries everywhere"])
def test_a_model_without_variation_has_a_page(tmp_path, level):
    bases, places = planted_genome(20)
    context = context_of(tmp_path, bases, lambda ids: np.full(len(ids), level), permutations=39, shuffled_loci=2)
    loci = replace(loci_of(context, places), name="tss")
    results = StudyResults.compute(context, [loci], [], [], None, [], 20, lambda _: None)
    assert write_report(tmp_path / "out", results, {"model": "m", "genome": "g"}, [])[0] == "report.html"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no difference from any null model" in page
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page)
    assert ("No data for Chunk lengths: the regions have no chunks" in page) == (level == 0)


def test_chunks_of_an_inner_stage_have_no_probabilities_inside(tmp_path):
    landscape = context_of(tmp_path, "ACGT" * 25, lambda ids: np.arange(len(ids)) % 5 == 0).landscape
    inner = replace(landscape, probability=np.where(landscape.boundary, landscape.probability, np.nan))
    assert len(chunks(inner)[1]) == len(chunks(landscape)[1]) > 10
