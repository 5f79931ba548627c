"""An uninterrupted run and a resumed run of the same configuration, and their comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ldarnet.runtime.metrics_file import read_metrics
from tests.pretraining.test_resume import TIMING_KEYS
from tests.support.ranks import WORKERS


def unbroken_and_resumed(run_ranks: Callable[..., Any], world: int, config_file: Path) -> Path:
    """Folder with an uninterrupted run of 10 steps, and a run that was stopped after 6 steps and resumed."""
    folder = config_file.parent / f"{world}-ranks"
    resumed = f"{config_file} run.dir={folder}/resumed"
    arguments = (f"{config_file} run.dir={folder}/unbroken", f"{resumed} training.stop_after=6", resumed)
    run_ranks(world, *arguments, script=WORKERS / "several_runs.py").succeed()
    return folder


def metrics_lines(run: Path, split: str) -> list[dict[str, Any]]:
    """Lines of a split in metrics.jsonl, without times and speeds."""
    found = [line for line in read_metrics(run / "metrics.jsonl") if line["split"] == split]
    return [{key: line[key] for key in line if key not in TIMING_KEYS} for line in found]


def assert_same(folder: Path) -> None:
    """Check that both runs have the same weights and metrics."""
    first, second = (
        load_file(folder / name / "checkpoints/step-00000010/model.safetensors") for name in ("unbroken", "resumed")
    )
    assert all(first[name].equal(second[name]) for name in first)
    for split in ("train", "valid"):
        assert metrics_lines(folder / "unbroken", split) == metrics_lines(folder / "resumed", split)
