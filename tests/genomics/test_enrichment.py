"""Enrichment at features: planted signals are found, random and composition-driven boundaries are not."""

from collections.abc import Sequence

import numpy as np
import pytest

from ldarnet.genomics.enrichment.features import Loci, Place, place_loci
from ldarnet.genomics.enrichment.landscape import Landscape, read_landscape
from ldarnet.genomics.enrichment.nulls import NULLS
from ldarnet.genomics.enrichment.nulls.base import NullContext
from ldarnet.genomics.enrichment.nulls.kmers import fit_kmers
from ldarnet.genomics.enrichment.nulls.shuffles import shuffled
from ldarnet.genomics.enrichment.resampling import exchange, false_discovery_rates, interval_of_mean, two_sided_p
from ldarnet.genomics.enrichment.study import EnrichmentRow, enrichment_rows, profile_rows
from ldarnet.genomics.genome import Genome
from ldarnet.genomics.regions import select
from ldarnet.genomics.scoring import WindowInput, WindowScores
from ldarnet.genomics.windows import WindowGrid
from tests.support.genomics import ids_of, random_bases, write_genome

BASES = 40_000
SITE = "GATTACAGCC"


class RuleScorer:
    """Scorer whose probability at a base is given by a function of the token ids."""

    signals = ("p",)
    chunks = {"chunks": "p"}

    def __init__(self, rule) -> None:
        self.rule = rule

    def __call__(self, windows: Sequence[WindowInput]) -> list[WindowScores]:
        found = [self.rule(window.ids).astype(np.float32) for window in windows]
        return [WindowScores({"p": p}, {"chunks": p > 0.5}) for p in found]


def hashed(ids: np.ndarray, reach: int = 16) -> np.ndarray:
    """Uniform pseudorandom numbers that depend on the `reach` bases on both sides."""
    weights = np.random.default_rng(5).integers(1, 2**31, 2 * reach)
    padded = np.concatenate((np.zeros(reach), ids, np.zeros(reach))).astype(np.uint64)
    total = sum(int(w) * padded[at : at + len(ids)] for at, w in enumerate(weights))
    return (np.asarray(total) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).astype(np.float64) / 2**24


def planted(ids: np.ndarray) -> np.ndarray:
    """A quarter of the bases at random, and the first base of each site."""
    p = (hashed(ids) < 0.25).astype(np.float64)
    site = ids_of(SITE)
    for at in range(len(ids) - len(site)):
        if ids[at] == site[0] and (ids[at : at + len(site)] == site).all():
            p[at] = 1
    return p


def strong(ids: np.ndarray) -> np.ndarray:
    return (ids == 1) | (ids == 2)


def random_rule(ids: np.ndarray) -> np.ndarray:
    return (hashed(ids) < 0.25).astype(np.float64)


def planted_genome(sites: int, seed: int = 0) -> tuple[str, list[Place]]:
    """Random bases with sites on the forward strand."""
    bases, rng = list(random_bases(BASES, seed)), np.random.default_rng(seed)
    starts = np.sort(rng.choice(np.arange(5, BASES // 50 - 5), sites, replace=False)) * 50
    for start in starts.tolist():
        bases[start : start + len(SITE)] = SITE
    return "".join(bases), [("c", start, start, "+") for start in starts.tolist()]


def context_of(tmp_path, bases: str, rule, **changes) -> NullContext:
    genome = Genome(write_genome(tmp_path / "g.fa", {"c": bases}))
    scorer, grid = RuleScorer(rule), WindowGrid.of(1024, 64)
    landscape = read_landscape(genome, select(genome), scorer, grid, 8, lambda *_: None)
    settings = {"permutations": 199, "shuffled_loci": 60, "block": 2000, "seed": 0} | changes
    return NullContext(landscape, scorer, 200, 64, **settings)


def loci_of(context: NullContext, places: list[Place], radius: int = 0) -> Loci:
    return place_loci("site", places, context.landscape, radius=radius, flank=40, maximum=1000, seed=0)


def compared(context: NullContext, places: list[Place], radius: int = 0) -> dict[str, EnrichmentRow]:
    rows = enrichment_rows(context, [loci_of(context, places, radius)], lambda _: None)
    assert [row.null for row in rows] == list(NULLS)
    return {row.null: row for row in rows}


def test_boundaries_of_long_context_are_significant_under_every_null_model(tmp_path):
    bases = random_bases(BASES)
    at = 100 + np.flatnonzero(hashed(ids_of(bases))[100:-100] < 0.005)[:100]
    found = compared(context_of(tmp_path, bases, random_rule), [("c", int(start), int(start), "+") for start in at])
    for row in found.values():
        assert row.n == (60 if row.null == "dinucleotide_shuffle" else 100)
        assert (row.observed, row.p) == (1.0, pytest.approx(2 / 200)), row
        assert row.effect > 0.5
        assert row.effect_low <= row.effect <= row.effect_high
        assert row.effect_low > 0.4
        assert row.q < 0.05


@pytest.mark.parametrize("null", [name for name in NULLS if name != "dinucleotide_shuffle"])
def test_random_boundaries_have_uniform_p_values(tmp_path, null):
    context = context_of(tmp_path, random_bases(BASES), random_rule, permutations=99)
    rng, found = np.random.default_rng(1), []
    model = NULLS[null][2]
    kinds = []
    for number in range(100):
        at = rng.choice(np.arange(100, BASES - 100), 40, replace=False)
        loci = loci_of(context, [("c", int(position), int(position), "+") for position in at])
        kinds.append(Loci(str(number), loci.anchor, loci.sign, loci.low, loci.width, False, 0))
    for sample in model(context, kinds):
        assert sample is not None
        found.append(two_sided_p(float(sample.observed.mean()), sample.means))
    # Binomial(100, 0.05) exceeds 13, and Binomial(100, 0.5) 67 or falls below 33, with a probability below 0.001.
    # Means of 40 zeros and ones are discrete, which makes p-values larger, never smaller.
    assert np.mean(np.array(found) <= 0.05) <= 0.13
    assert np.mean(np.array(found) <= 0.5) <= 0.67
    assert np.mean(found) < 0.8


def test_shuffled_elements_of_random_boundaries_have_uniform_p_values(tmp_path):
    context = context_of(tmp_path, random_bases(BASES), random_rule, permutations=99, shuffled_loci=30)
    rng, model = np.random.default_rng(2), NULLS["dinucleotide_shuffle"][2]
    found = []
    for number in range(30):
        at = rng.choice(np.arange(200, BASES - 200), 30, replace=False)
        loci = loci_of(context, [("c", int(position), int(position), "+") for position in at])
        (sample,) = model(context, [Loci(str(number), loci.anchor, loci.sign, loci.low, loci.width, False, 0)])
        assert sample is not None
        found.append(two_sided_p(float(sample.observed.mean()), sample.means))
    assert np.mean(np.array(found) <= 0.05) <= 0.2
    assert np.mean(np.array(found) <= 0.5) <= 0.8
    assert np.mean(found) < 0.85


def test_boundaries_at_a_fixed_motif_are_significant_but_explained_by_kmers(tmp_path):
    bases, places = planted_genome(100)
    found = compared(context_of(tmp_path, bases, planted), places)
    kmers = found.pop("kmer_regression")
    assert all(row.effect > 0.5 and row.q < 0.05 for row in found.values())
    assert kmers.p > 0.05
    assert kmers.effect_low < 0.05


def test_boundaries_that_follow_composition_are_explained_by_kmers(tmp_path):
    bases, places = planted_genome(100)
    bases = bases.replace("GATTACAGCC", "GCGGCCGCCG")
    context = context_of(tmp_path, bases, strong)
    found = compared(context, places, radius=2)
    assert found["shifted"].effect > 0.15
    assert found["shifted"].p < 0.05
    assert found["random_boundaries"].p < 0.05
    assert abs(found["kmer_regression"].effect) < 0.005
    assert fit_kmers(context, 1).r2 > 0.99
    assert fit_kmers(context_of(tmp_path, bases, random_rule), 6).r2 < 0.05


def test_profiles_follow_the_strand(tmp_path):
    bases, places = planted_genome(80)
    context = context_of(tmp_path, bases, planted)
    reverse = loci_of(context, [("c", start - 7, start - 7, "-") for _, start, _, _ in places])
    profile = {row.offset: row for row in profile_rows(context, reverse, 20)}
    assert profile[-7].probability == 1.0
    assert profile[-7].rate == 1.0
    assert all(profile[offset].probability < 0.6 for offset in range(-20, 21) if offset != -7)
    assert profile[-7].matched < 0.6
    assert profile[5].probability_low <= profile[5].probability <= profile[5].probability_high
    forward = {row.offset: row for row in profile_rows(context, loci_of(context, places), 20)}
    assert forward[0].probability == 1.0


def test_results_depend_on_the_seed_only(tmp_path):
    bases, places = planted_genome(40)
    context = context_of(tmp_path, bases, planted)
    first, again = compared(context, places), compared(context, places)
    other = compared(context_of(tmp_path, bases, planted, seed=1), places)
    assert first == again
    assert first != other


def test_loci_near_the_ends_and_outside_of_regions_are_skipped(tmp_path):
    context = context_of(tmp_path, random_bases(2000), random_rule)
    places: list[Place] = [("c", at, at, "+") for at in (0, 10, 40, 1000, 1000, 1960, 1999)] + [("d", 500, 500, "+")]
    loci = loci_of(context, places)
    assert context.landscape.coordinates(loci.anchor)[1].tolist() == [40, 1000]
    assert loci.skipped == 6


def test_elements_are_windows_from_edge_to_edge(tmp_path):
    context = context_of(tmp_path, random_bases(2000), random_rule)
    loci = loci_of(context, [("c", 100, 108, "+"), ("c", 300, 308, "-")])
    assert loci.elements
    assert loci.width.tolist() == [9, 9]
    assert context.landscape.coordinates(loci.low)[1].tolist() == [100, 300]
    assert context.landscape.coordinates(loci.anchor)[1].tolist() == [100, 308]
    assert not loci_of(context, [("c", 100, 300, "+")]).elements


def test_unknown_bases_never_count(tmp_path):
    bases = random_bases(3000) + "N" * 2500 + random_bases(3000, 1)
    context = context_of(tmp_path, bases, random_rule)
    landscape: Landscape = context.landscape
    assert landscape.known.sum() < len(bases)
    loci = loci_of(context, [("c", at, at, "+") for at in range(100, 8400, 10)], radius=2)
    assert not np.isnan(landscape.probability[loci.low[:, None] + np.arange(5)]).any()


def test_a_shuffle_keeps_dinucleotides_and_is_uniform():
    ids, rng = ids_of("ACGTTGCAACGGTTAACCGATN"), np.random.default_rng(0)

    def pairs(values: np.ndarray) -> list[tuple[int, int]]:
        return sorted(zip(values[:-1].tolist(), values[1:].tolist(), strict=True))

    results = [shuffled(ids, rng) for _ in range(200)]
    assert all(pairs(result) == pairs(ids) for result in results)
    assert len({result.tobytes() for result in results}) > 150
    # AACAGA: the paths from A to A through AA, AC, CA, AG, GA are AA in 3 places, times 2 orders.
    counts: dict[bytes, int] = {}
    for _ in range(3000):
        key = shuffled(ids_of("AACAGA"), rng).tobytes()
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 400


def test_exchange_p_values_and_rates():
    rng = np.random.default_rng(0)
    pool = np.array([[0.0, 0.0, np.nan], [np.nan] * 3, [0.0, 0.0, 0.0]])
    sample = exchange(np.array([1.0, 1.0, 1.0]), pool, 999, rng)
    assert sample is not None
    assert sample.rows.tolist() == [0, 2]
    assert sample.expected.tolist() == [0, 0]
    assert (sample.means == 1).mean() == pytest.approx(1 / 12, abs=0.03)
    assert exchange(np.ones(2), np.full((2, 3), np.nan), 9, rng) is None
    assert two_sided_p(5, np.zeros(99)) == pytest.approx(0.02)
    assert two_sided_p(0, np.zeros(99)) == 1
    q = false_discovery_rates([0.01, float("nan"), 0.04, 0.03])
    assert q[0] == pytest.approx(0.03)
    assert np.isnan(q[1])
    assert q[2] == q[3] == pytest.approx(0.04)


def test_intervals_resample_blocks():
    rng, block = np.random.default_rng(0), np.repeat(np.arange(10), 100)
    values = np.repeat(rng.normal(size=10), 100)  # equal within blocks: as little information as ten values
    low, high = interval_of_mean(values, block, rng)
    narrow_low, narrow_high = interval_of_mean(values, np.arange(1000), rng)
    assert high - low > 5 * (narrow_high - narrow_low)
    assert np.isnan(interval_of_mean(values, np.zeros(1000, int), rng)).all()
