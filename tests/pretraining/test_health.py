"""Router health: statistics of a step, warnings, warm-up of the target ratio."""

import math
from itertools import pairwise

import pytest
import torch

from ldarnet.alphabet import MASK, N
from ldarnet.model.boundaries import Boundaries
from ldarnet.ops import to_host
from ldarnet.pretraining.callbacks.router_health import PATIENCE, QUIET, RouterHealth, findings
from ldarnet.pretraining.schedule import target_ratio
from ldarnet.runtime.router_metrics import BINS, LAGS, RouterCounts, boundaries_at_bases, router_metrics

WINDOWS, LENGTH = 6, 400


class OneRank:
    """Stand-in for a `World` of one rank."""

    rank, size = 0, 1

    def sum_on_device(self, values):
        return values


def boundaries(mask, probability=None):
    mask = mask.clone()
    mask[:, 0] = True
    lengths = torch.full((len(mask),), mask.shape[1])
    return Boundaries(mask.double() if probability is None else probability, mask, lengths)


def metrics(*stages, ids=None):
    ids = torch.zeros(stages[0].mask.shape, dtype=torch.int64) if ids is None else ids
    counts = RouterCounts.of(stages, ids).all_reduced(OneRank())
    return router_metrics(RouterCounts(*to_host(counts.tensors(), torch.device("cpu"))))


def random_mask(share, seed=0):
    return torch.rand(WINDOWS, LENGTH, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("period", [2, 4, 7, 31])
def test_grid_is_detected_with_its_period(period):
    grid = (torch.arange(LENGTH) % period == 0).expand(WINDOWS, LENGTH)
    found = metrics(boundaries(grid))
    assert found["period"] == [period]
    assert found["periodicity"][0] == pytest.approx(1, abs=0.02)  # up to edge effects


def test_alternating_and_imperfect_grids_are_detected():
    alternating = torch.isin(torch.arange(LENGTH) % 8, torch.tensor([0, 3])).expand(WINDOWS, LENGTH)
    assert metrics(boundaries(alternating))["period"] == [8]
    faulty = (torch.arange(LENGTH) % 4 == 0).expand(WINDOWS, LENGTH) ^ random_mask(0.02)
    found = metrics(boundaries(faulty))
    assert found["period"] == [4]
    assert 0.7 < found["periodicity"][0] < 1


@pytest.mark.parametrize("share", [0.05, 0.25, 0.6])
def test_random_boundaries_are_not_a_grid(share):
    assert abs(metrics(boundaries(random_mask(share)))["periodicity"][0]) < 0.2


@pytest.mark.parametrize("mask", [torch.zeros(2, 50, dtype=torch.bool), torch.ones(2, 50, dtype=torch.bool)])
def test_collapsed_router_has_no_period(mask):
    found = metrics(boundaries(mask))
    assert (found["periodicity"], found["period"]) == ([0.0], [0])


def test_padding_and_first_positions_are_ignored():
    """Counts of a padded batch equal the sum of the counts of its windows."""
    probability = torch.rand(2, 60, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([60, 25])
    probability[1, 25:] = 0
    together = RouterCounts.of([Boundaries(probability, probability > 0.5, lengths)], torch.zeros(2, 60))
    alone = []
    for row, size in ((probability[:1, :60], 60), (probability[1:, :25], 25)):
        stage = Boundaries(row, row > 0.5, torch.tensor([size]))
        alone.append(RouterCounts.of([stage], torch.zeros(1, size)))
    apart = RouterCounts.of_step(alone)
    assert together.histogram.sum() == 59 + 24
    for name in ("histogram", "boundaries", "pairs", "possible", "chunks"):
        assert torch.equal(getattr(together, name), getattr(apart, name)), name
    brute = torch.histc(torch.cat([probability[0, 1:], probability[1, 1:25]]), BINS, 0, 1)
    assert torch.equal(together.histogram[0], brute.long())


def test_pair_counts_match_plain_loops():
    mask = random_mask(0.3)[:2, :50]
    counts = RouterCounts.of([boundaries(mask)], torch.zeros(2, 50))
    for number, lag in enumerate(LAGS):
        pairs = [(row[t], row[t + lag]) for row in mask for t in range(1, 50 - lag)]
        assert counts.possible[0, number] == len(pairs)
        assert counts.pairs[0, number] == sum(bool(a and b) for a, b in pairs)


def test_boundary_rate_by_token():
    ids = torch.tensor([[0, 1, 1, 2, 3, MASK, N, 0]])
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0]], dtype=torch.bool)
    found = metrics(boundaries(mask), ids=ids)
    assert found["boundary_rate"] == {"A": 0, "C": 0.5, "G": 0, "T": 1, "N": 0, "MASK": 1}
    assert found["boundary_tokens"] == pytest.approx(
        {"A": 0, "C": 1 / 3, "G": 0, "T": 1 / 3, "N": 0, "MASK": 1 / 3}, abs=1e-5
    )


def test_inner_boundaries_map_to_bases():
    outer = torch.tensor([[1, 0, 1, 0, 0, 1, 1, 0]], dtype=torch.bool)
    inner = torch.tensor([[1, 0, 1, 0]], dtype=torch.bool)
    innermost = torch.tensor([[1, 1]], dtype=torch.bool)
    masks = boundaries_at_bases([boundaries(mask) for mask in (outer, inner, innermost)])
    assert [mask.nonzero()[:, 1].tolist() for mask in masks] == [[0, 2, 5, 6], [0, 5], [0, 5]]


def line(step, *bases_per_chunk, grid=0.1):
    stages = len(bases_per_chunk)
    return {
        "step": step,
        "bases_per_chunk": list(bases_per_chunk),
        "periodicity": [grid] * stages,
        "period": [4] * stages,
    }


@pytest.mark.parametrize(
    ("values", "grid", "expected"),
    [
        ([4.0], 0.1, []),
        ([5.9], 0.1, []),
        ([1.02], 0.1, [("all_boundaries", 0)]),
        ([400.0], 0.1, [("no_boundaries", 0)]),
        ([6.5], 0.1, [("drift", 0)]),
        ([2.5], 0.1, [("drift", 0)]),
        ([4.0], 0.9, [("grid", 0)]),
        ([4.0, 16.0], 0.1, []),
        ([4.0, 4.1], 0.1, [("all_boundaries", 1)]),
        ([2.0, 8.0], 0.1, [("drift", 0)]),
    ],
)
def test_findings_of_a_step(values, grid, expected):
    assert [(found.kind, found.stage) for found in findings(line(1, *values, grid=grid), 4.0)] == expected


def test_lasting_warning_is_logged_once_at_start_and_end():
    health = RouterHealth(1000, lambda step: 4.0)
    drifting = range(101, 301)
    lines = [line(step, 30.0 if step in drifting else 4.2) for step in range(1, 401)]
    messages = {values["step"]: text for values in lines for text in health.update(values)}
    assert list(messages) == [101 + 50, 301]  # 50 steps later: a twentieth of the run
    assert "compression has drifted from its target (30 positions per chunk, target 4) since step 101" in messages[151]
    assert "Router health" in messages[151]
    assert "warning drift ended" in messages[301]
    assert not health.warnings


def test_brief_findings_are_ignored_and_replay_restores_state():
    lines = [line(step, 30.0 if step % 60 else 4.0) for step in range(1, 1000)]
    health = RouterHealth(1200, lambda step: 4.0)
    assert [text for each in lines for text in health.update(each)] == []
    lasting = [line(step, 30.0) for step in range(1, 200)]
    first, second = RouterHealth(1000, lambda step: 4.0), RouterHealth(1000, lambda step: 4.0)
    whole = [first.update(each) for each in lasting]
    for each in lasting[:90]:
        second.update(each)
    assert [second.update(each) for each in lasting[90:]] == whole[90:]
    assert sum(map(len, whole)) == 1


@pytest.mark.parametrize(("total", "expected"), [(10, 1 + PATIENCE[1]), (1000, 101), (10_000_000, QUIET[1] + 1)])
def test_early_collapse_is_logged_after_the_quiet_period(total, expected):
    health = RouterHealth(total, lambda step: 4.0)
    messages = [step for step in range(1, 1500) if health.update(line(step, 512.0))]
    assert messages == [expected]


def test_target_ratio_warms_up():
    values = [target_ratio(step, 100, start=2.0, warmup=0.5, target=8.0) for step in range(100)]
    assert values[0] == 2.0
    assert values[25] == pytest.approx(4.0)  # halfway through the warm-up, which is geometric
    assert values[50:] == [8.0] * 50
    assert all(math.isclose(b / a, values[1] / values[0]) for a, b in pairwise(values[:51]))
    assert target_ratio(0, 100, start=None, warmup=0.5, target=8.0) == 8.0
    assert target_ratio(0, 100, start=2.0, warmup=0.0, target=8.0) == 8.0
