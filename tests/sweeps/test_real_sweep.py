"""Sweeps with real fine-tuning, through the command line."""

import json
import random
from pathlib import Path

import pytest
import yaml

from tests.support.ranks import ROOT, Ranks

TASKS = ("H3", "enhancers")

pytestmark = pytest.mark.slow


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Write small tables of two tasks and a sweep over them."""
    rng = random.Random(0)
    for task in TASKS:
        folder = tmp_path / "tables" / task
        folder.mkdir(parents=True)
        for split, rows in (("train", 48), ("test", 24)):
            weights = ([1, 3, 3, 1], [3, 1, 1, 3])
            lines = [f"{''.join(rng.choices('ACGT', weights[row % 2], k=48))}\t{row % 2}" for row in range(rows)]
            (folder / f"{split}.tsv").write_text("\n".join(["sequence\tlabel", *lines]) + "\n")
    config = {
        "sweep": {"dir": str(tmp_path / "out"), "tasks": list(TASKS)},
        "finetune": str(ROOT / "configs" / "finetune" / "nt.yaml"),
        "set": {
            "data.folder": str(tmp_path / "tables"),
            "model.preset": "tiny",
            "folds.count": 2,
            "training.epochs": 2,
            "training.batch": 16,
        },
        "space": {"optimizer.lr": [1e-3, 1e-6]},
        "tracking": {"mlflow": False},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "sweep.yaml"


def run(sweep: Path, *overrides: str) -> tuple[str, dict]:
    printed = Ranks(1, ROOT / "launch" / "sweep.py", ["--config", str(sweep), *overrides], launched=False).succeed()
    return printed, json.loads((sweep.parent / "out" / "sweep.json").read_text())


def test_sweep_over_two_tasks_two_learning_rates_and_two_folds(sweep: Path) -> None:
    printed, report = run(sweep, "search.folds=[0]")
    assert "[6/6]" in printed
    for task in TASKS:
        entry = report["tasks"][f"nt/{task}"]
        means = {name: setting["mean"] for name, setting in entry["settings"].items()}
        assert means.keys() == {"lr=0.001", "lr=1e-06"}
        assert entry["chosen"]["setting"] == max(means, key=lambda name: means[name])
        results = [json.loads((sweep.parent / "out" / file).read_text()) for file in entry["results"]]
        assert [result["fold"] for result in results] == [0, 1]
        assert all(
            result["settings"]["optimizer.lr"] == entry["chosen"]["values"]["optimizer.lr"] for result in results
        )
        best = sweep.parent / "out" / "trials" / "nt" / task / entry["chosen"]["setting"] / entry["classifier"]
        assert (best / "export" / "model.safetensors").is_file()
    assert (sweep.parent / "out" / "comparison" / "results.md").is_file()
    again, _ = run(sweep, "search.folds=[0]")
    assert "6 already done" in again


def test_trial_with_two_ranks_is_a_deepspeed_job_with_a_nested_mlflow_run(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _, report = run(
        sweep,
        "sweep.tasks=H3",
        "space={}",
        "set.folds.only=[1]",
        *("resources.cpus=2", "resources.gpus=0", "resources.ranks=2", "resources.launcher=deepspeed"),
        "tracking.mlflow=true",
    )
    assert report["tasks"]["nt/H3"]["chosen"]["setting"] == "as-given"
    out = sweep.parent / "out"
    assert "2 x CPU" in (out / "trials" / "nt" / "H3" / "as-given" / "fold1" / "log.txt").read_text()
    client = MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")
    (experiment,) = [one.experiment_id for one in client.search_experiments() if one.name == "ldarnet-sweeps"]
    child, parent = sorted(client.search_runs([experiment]), key=lambda one: "mlflow.parentRunId" not in one.data.tags)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.status == parent.info.status == "FINISHED"
    assert child.info.run_name == "nt/H3 as-given/fold1"
    assert "valid/mcc" in child.data.metrics and "nt/H3/valid/mcc" in parent.data.metrics
