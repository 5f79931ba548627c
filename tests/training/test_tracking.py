"""metrics.jsonl and MLflow."""

import json
import os
import subprocess
import sys

import pytest

from ldarnet.config import load_config
from ldarnet.training import tracking
from ldarnet.training.metrics_file import MetricsFile, read_metrics
from ldarnet.training.tracking import Tracker

TRAIN = {"split": "train", "loss": 1.5, "bases_per_chunk": [4.0, 16.0], "lr": {"stage0/decay": 0.1}}


@pytest.fixture
def config(config_file, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load_config(config_file, ["tracking.mlflow=true"])
    config.run.dir.mkdir()
    return config


def test_lines_beyond_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "split": "train"} for step in range(1, 6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "spl')
    assert read_metrics(path) == lines
    file = MetricsFile(tmp_path, completed_steps=3)
    file.write({"step": 4, "split": "again"})
    file.close()
    assert read_metrics(path) == [*lines[:3], {"step": 4, "split": "again"}]


def test_mlflow_run_is_continued(config):
    for first in (1, 3):
        tracker = Tracker(config, pytest.fail)
        for step in (first, first + 1):
            tracker.log({"step": step, **TRAIN})
        tracker.log_artifact(config.run.dir / "mlflow.json" if first > 1 else config.data.shards / "index.json")
        tracker.close("FINISHED")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{config.run.dir}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "ldarnet-pretraining"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.0005"
    assert run.data.metrics["train/lr/stage0/decay"] == 0.1
    assert run.data.metrics["train/bases_per_chunk/stage1"] == 16.0
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"index.json", "mlflow.json"}
    assert (config.run.dir / "mlartifacts").is_dir()


def test_unreachable_store_is_said_once_and_does_not_stop_training(config, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.01)
    said = []
    tracker = Tracker(config, said.append)
    for step in range(3):
        tracker.log({"step": step, **TRAIN})
    tracker.close("FINISHED")
    assert len(said) == 1
    assert "MLflow cannot be reached" in said[0]
    assert not (config.run.dir / "mlflow.json").exists()


def test_package_needs_no_mlflow(tmp_path):
    program = "import sys; sys.modules['mlflow'] = None; import ldarnet, ldarnet.training; print('fine')"
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout == "fine\n"
