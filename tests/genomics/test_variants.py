"""Variant scores equal naive computations, and windows follow the documented rules."""

import math

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, alphabet
from ldarnet.genomics.boundaries import BoundaryScorer
from ldarnet.genomics.scoring import WindowInput
from ldarnet.genomics.variants.alleles import Allele, place
from ldarnet.genomics.variants.passes import read_pairs
from ldarnet.genomics.variants.score import all_scores
from tests.support.genomics import ids_of, random_bases, whole

MASK = 5
BASES = random_bases(60)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter += 0.5 * torch.randn_like(parameter)
    return network.double().eval()


def log_p(network, text: str, masked: set[int], at: int) -> dict[str, float]:
    ids = [MASK if index in masked else "ACGT".index(base) for index, base in enumerate(text)]
    with torch.no_grad():
        logs = torch.log_softmax(network(torch.tensor([ids])).logits[0, at, :4], 0)
    return dict(zip("ACGT", logs.tolist(), strict=True))


def naive_ratio(network, text: str, at: int, ref: str, alt: str, *, mask: bool) -> float:
    """Mean over strands of the sum of log-ratios; one position at a time."""
    changed = [at + k for k in range(len(ref)) if ref[k] != alt[k]]
    turned = text[::-1].translate(COMPLEMENT)
    total = 0.0
    for index in changed:
        other = len(text) - 1 - index
        forward = log_p(network, text, {*changed} if mask else set(), index)
        reverse = log_p(network, turned, {len(text) - 1 - k for k in changed} if mask else set(), other)
        a, b = alt[index - at], ref[index - at]
        total += forward[a] - forward[b] + reverse[a.translate(COMPLEMENT)] - reverse[b.translate(COMPLEMENT)]
    return total / 2


def scores_of(network, alleles, window=24) -> list[dict[str, float]]:
    pairs = [place(allele, whole(BASES), ids_of(BASES), window) for allele in alleles]
    return [{s.name: s.compute(readings) for s in all_scores()} for readings in read_pairs(network, pairs)]


def allele(position: int, ref_length: int, alt: str) -> Allele:
    return Allele(1, "c", position, BASES[position : position + ref_length], alt)


def other(base: str) -> str:
    return {"A": "C", "C": "T", "G": "A", "T": "G"}[base]


@pytest.mark.parametrize("changed", [(0,), (0, 1, 2), (0, 2)])
def test_ratios_equal_a_naive_loop_over_strands_and_positions(network, changed):
    at = 30
    ref = BASES[at : at + changed[-1] + 1]
    alt = "".join(other(base) if k in changed else base for k, base in enumerate(ref))
    start = at + len(ref) // 2 - 12
    text = BASES[start : start + 24]
    (found,) = scores_of(network, [Allele(1, "c", at, ref, alt)])
    for name, mask in (("llr", True), ("llr_unmasked", False)):
        assert found[name] == pytest.approx(naive_ratio(network, text, at - start, ref, alt, mask=mask), abs=1e-9)


def test_swapped_alleles_have_the_opposite_masked_ratio(network):
    alt = other(BASES[30])
    swapped = BASES[:30] + alt + BASES[31:]
    pair = place(Allele(1, "c", 30, alt, BASES[30]), whole(swapped), ids_of(swapped), 24)
    (readings,) = read_pairs(network, [pair])
    score = next(score for score in all_scores() if score.name == "llr")
    (forward,) = scores_of(network, [allele(30, 1, alt)])
    assert forward["llr"] != 0
    assert score.compute(readings) == pytest.approx(-forward["llr"], abs=1e-9)


def test_distance_and_boundaries_compare_aligned_bases(network):
    deletion = allele(29, 4, BASES[29])
    substitution = allele(30, 1, other(BASES[30]))
    found = scores_of(network, [deletion, substitution])
    for entry, scores in ((deletion, found[0]), (substitution, found[1])):
        pair = place(entry, whole(BASES), ids_of(BASES), 24)
        keep = [list(range(len(pair.ref))), list(range(len(pair.alt)))]
        if entry is deletion:
            assert len(pair.alt) == len(pair.ref) - 3
            keep[0] = [k for k in keep[0] if not pair.at <= k < pair.at + 3]
        distances = []
        for turn in (False, True):
            hidden = []
            for ids, kept in zip((pair.ref, pair.alt), keep, strict=True):
                read = alphabet.reverse_complement(ids) if turn else ids
                with torch.no_grad():
                    states = network(torch.from_numpy(read.astype(np.int64))[None]).last_hidden_state[0]
                hidden.append((states.flip(0) if turn else states)[kept])
            distances.append(float((hidden[0] - hidden[1]).norm()))
        assert scores["embedding_distance"] == pytest.approx(np.mean(distances), rel=1e-9)
        starts = [
            BoundaryScorer(network.model, "average")([WindowInput(ids, 0)])[0].starts["chunks_stage0"][kept]
            for ids, kept in zip((pair.ref, pair.alt), keep, strict=True)
        ]
        assert scores["boundaries_changed"] == (starts[0] != starts[1]).sum()
    assert found[0]["boundaries_changed"] + found[1]["boundaries_changed"] > 0
    assert math.isnan(found[0]["llr"]) and math.isnan(found[0]["llr_unmasked"])


def test_scores_do_not_depend_on_the_batch(network):
    alleles = [allele(at, 1, other(BASES[at])) for at in (0, 5, 31, 59)] + [allele(30, 1, BASES[30] + "ACG")]
    together = scores_of(network, alleles)
    for entry, expected in zip(alleles, together, strict=True):
        assert scores_of(network, [entry])[0] == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("position", "window", "start", "at"),
    [(30, 24, 18, 12), (30, 25, 18, 12), (0, 24, 0, 0), (3, 24, 0, 3), (59, 24, 36, 23), (30, 100, 0, 30)],
)
def test_windows_are_centered_and_moved_inwards_at_the_ends(position, window, start, at):
    pair = place(allele(position, 1, other(BASES[position])), whole(BASES), ids_of(BASES), window)
    assert pair.at == at
    assert alphabet.decode(pair.ref) == BASES[start : start + window]
    assert alphabet.decode(pair.alt) == pair_text(start, window, position)


def pair_text(start: int, window: int, position: int) -> str:
    changed = BASES[:position] + other(BASES[position]) + BASES[position + 1 :]
    return changed[start : start + window]


def test_a_record_with_an_offset_is_read_at_its_place():
    record = whole(BASES, start=1000)
    pair = place(Allele(1, "c", 1030, BASES[30], other(BASES[30])), record, ids_of(BASES), 24)
    assert alphabet.decode(pair.ref) == BASES[18:42]


@pytest.mark.parametrize(
    ("ref", "alt", "expected"),
    [
        ("A", "C", (10, "A", "C")),
        ("CAT", "CGT", (11, "A", "G")),
        ("CAA", "CA", (11, "A", "")),
        ("C", "CGG", (11, "", "GG")),
        ("ACGT", "TCGA", (10, "ACGT", "TCGA")),
    ],
)
def test_shared_bases_are_removed(ref, alt, expected):
    edit = Allele(1, "c", 10, ref, alt).trimmed()
    assert (edit.position, edit.ref, edit.alt) == expected


@pytest.mark.parametrize(
    ("ref", "alt", "reason"),
    [
        ("A", "<DEL>", "symbolic"),
        ("A", "*", "symbolic"),
        ("A", "A]chr2:5]", "symbolic"),
        ("N", "A", "ambiguity"),
        ("A", "R", "ambiguity"),
        ("A", "A", "equal to REF"),
        ("A", "A" * 14, "longer than half"),
        ("A", "A" * 13, None),
        ("A", "T", None),
    ],
)
def test_alleles_without_scores_have_a_reason(ref, alt, reason):
    found = Allele(1, "c", 10, ref, alt).unsupported_reason(24)
    assert found is None if reason is None else reason in found
