"""Chunk lengths by class of bases, and fragmentation of elements."""

import re

import numpy as np
import pytest

from ldarnet.genome.annotation import Transcript
from ldarnet.genomics.enrichment.classes import class_rows, homopolymers, region_classes, short_tandem_repeats
from ldarnet.genomics.enrichment.fragmentation import fragmentation_rows
from ldarnet.tokenization.bpe import BPE
from tests.genomics.test_enrichment import context_of, loci_of, planted, planted_genome, random_rule, strong
from tests.support.genomics import ids_of, random_bases


def marked(bases: str, mask: np.ndarray) -> str:
    return "".join(base if on else "." for base, on in zip(bases, mask, strict=True))


@pytest.mark.parametrize(
    ("bases", "homopolymer", "tandem"),
    [
        ("CAAAAAATG", ".AAAAAA..", "........."),
        ("CAAAAATG", "........", "........"),
        ("NNNNNNNNNNNNNN", "." * 14, "." * 14),
        ("CCATATATATATATGG", "." * 16, "..ATATATATATAT.."),
        ("CATATATATATGG", "." * 13, "." * 13),
        ("TGACGACGACGACTT", "." * 15, ".GACGACGACGAC.."),
        ("GACTGACTGACTC", "." * 13, "GACTGACTGACT."),
    ],
)
def test_simple_repeats(bases, homopolymer, tandem):
    ids = ids_of(bases)
    assert marked(bases, homopolymers(ids)) == homopolymer
    assert marked(bases, short_tandem_repeats(ids)) == tandem


def test_classes_follow_transcripts_and_case(tmp_path):
    bases = random_bases(2000)
    context = context_of(tmp_path, bases[:1500] + bases[1500:1600].lower() + bases[1600:], random_rule)
    transcripts = [
        Transcript.of("c", "+", [(100, 200), (300, 400)], [(150, 200), (300, 350)]),
        Transcript.of("c", "-", [(220, 240)], []),
        Transcript.of("d", "+", [(500, 600)], []),
    ]
    classes = region_classes(context.landscape, transcripts)

    def found(name: str) -> list[tuple[int, int]]:
        at = np.flatnonzero(classes[name] & context.landscape.known)
        coordinates = context.landscape.coordinates(at)[1]
        parts = np.split(coordinates, np.flatnonzero(np.diff(coordinates) > 1) + 1)
        return [(int(part[0]), int(part[-1]) + 1) for part in parts]

    assert found("coding") == [(150, 200), (300, 350)]
    assert found("intron") == [(200, 220), (240, 300)]
    assert found("intergenic") == [(0, 100), (400, 2000)]
    assert found("repeat") == [(1500, 1600)]
    assert "coding" not in region_classes(context.landscape, [])


def test_chunk_lengths_by_class_are_bases_per_boundary(tmp_path):
    bases = "C" + random_bases(9_999) + "AT" * 1000 + "GC" * 1000
    context = context_of(tmp_path, bases, strong)
    rows = {row.region: row for row in class_rows(context, [Transcript.of("c", "+", [(12_000, 14_000)], [])])}
    assert rows["all"].bases == len(bases)
    assert rows["all"].boundaries == len(re.findall("[CG]", bases))
    assert rows["all"].low < rows["all"].bases_per_chunk < rows["all"].high
    assert rows["intergenic"].bases_per_chunk == pytest.approx(12_000 / len(re.findall("[CG]", bases[:12_000])))
    assert rows["short tandem repeat"].gc == pytest.approx(0.5, abs=0.05)
    assert rows["all"].kmers == pytest.approx(rows["all"].probability, abs=0.02)


def test_elements_that_begin_chunks_are_cut_less_than_random_windows(tmp_path):
    bases, places = planted_genome(100)

    def rule(ids: np.ndarray) -> np.ndarray:
        """Boundaries at the sites, none inside, and at every C elsewhere."""
        p = (ids == 1).astype(np.float64)
        for start in np.flatnonzero(planted(ids) == 1):
            if (ids[start : start + 10] == ids_of("GATTACAGCC")[: len(ids) - start]).all():
                p[start : start + 10] = 0
                p[start] = 1
        return p

    context = context_of(tmp_path, bases, rule)
    loci = loci_of(context, [("c", start, start + 10, "+") for _, start, _, _ in places])
    bpe = BPE.train([bases], 64)
    rows = {row.tokens: row for row in fragmentation_rows(context, [loci], bpe)}
    assert (rows["model"].chunks, rows["model"].intact, rows["model"].bases) == (1.0, 1.0, 10.0)
    assert rows["model"].random == pytest.approx(1 + 9 / 4, abs=0.5)
    assert rows["model"].effect_high < -1
    assert rows["model"].q < 0.05
    assert rows["6-mers"].random == pytest.approx(1 + 9 / 6, abs=0.05)
    inside = np.mean([sum(at % 6 == 0 for at in range(start + 1, start + 10)) for _, start, _, _ in places])
    assert rows["6-mers"].chunks == pytest.approx(1 + inside)
    assert 1 <= rows["bpe"].chunks < 10
    assert fragmentation_rows(context, [loci_of(context, places)]) == []
