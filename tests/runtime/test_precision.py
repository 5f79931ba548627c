"""bf16 autocast leaves weights, router and losses in float32."""

import pytest

from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import WORKERS


def test_autocast_dtypes_of_each_operation(config_file, run_ranks):
    script = WORKERS / "autocast_step.py"
    assert "bf16 step done" in run_ranks(1, config_file, script=script).succeed()


def test_a_bf16_run_follows_the_fp32_run(config_file, run_ranks, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        arguments = ("--config", config_file, f"run.dir={folder}", f"training.precision={precision}")
        run_ranks(1, *arguments, "validation.windows=0").succeed()
        losses.append([line["loss"] for line in read_metrics(folder / "metrics.jsonl")])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
