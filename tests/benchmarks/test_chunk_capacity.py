"""The cost of a static number of chunks."""

import numpy as np
import pytest

from benchmarks import chunk_capacity
from ldarnet.pretraining.chunk_capacity import SETTLED_STEPS
from tests.support.ranks import write_config


def test_replay_of_a_run():
    settle = [0.8] * (SETTLED_STEPS + 1)
    static, skipped, padding = chunk_capacity.replay([2.0, *settle, 0.8, 0.6, 1.3, 0.8, 0.8], 1.2)
    assert (static, skipped) == (4, 1)
    assert padding == pytest.approx(1 - (0.8 + 0.6 + 0.8) / 3 / 1.2)
    assert chunk_capacity.replay([2.0, 1.0] * SETTLED_STEPS, 1.2) == (0, 0, 0.0)


def test_larger_batches_vary_less():
    fills, rng = np.array([0.5, 1.5]), np.random.default_rng(0)
    small, large = (chunk_capacity.batch_fills(fills, size, rng) for size in (2, 8))
    assert small.mean() == pytest.approx(1.0, abs=0.01) and large.mean() == pytest.approx(1.0, abs=0.01)
    assert large.std() == pytest.approx(small.std() / 2, rel=0.02)


def test_padding_costs_flops_of_the_main_network_only():
    assert chunk_capacity.extra_flops(1.0, 1.0) == 0
    assert 0.1 < chunk_capacity.extra_flops(1.0, 1.25) < 0.25


@pytest.mark.slow
def test_result_file(tmp_path, shards, run_ranks, monkeypatch, capsys):
    config = write_config(tmp_path, shards, validation={"windows": 0})
    run_ranks(1, "--config", config).succeed()
    monkeypatch.setattr(chunk_capacity, "DRAWS", 100)
    words = ["--bases", "4096", "--lengths", "64", "--out", str(tmp_path)]
    chunk_capacity.main([str(tmp_path / "run"), *words])
    (page,) = tmp_path.glob("*.md")
    text = page.read_text()
    assert capsys.readouterr().out.endswith(f"{page}\n")
    assert "| 64 | 64 | 8 |" in text and "| run | 10 | 8 | 1.25 | 0% | 0 |" in text
