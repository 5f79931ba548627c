"""MLflow run of a sweep."""

from pathlib import Path

import pytest

from ldarnet.config.sweep import SweepConfig
from ldarnet.jobs.tracking import ParentRun
from tests.support.damaged import damaged_bytes
from tests.support.sample_sweep import load, write


def parent_run(config: SweepConfig, logged: list[str]) -> ParentRun:
    return ParentRun(config, config.sweep.dir, config.tracking, logged.append)


@pytest.mark.slow
def test_restart_resumes_the_run_and_ends_the_runs_of_killed_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = load(write(tmp_path), "tracking.mlflow=true")
    logged: list[str] = []
    first = parent_run(config, logged)
    client = MlflowClient(tracking_uri=first.uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "ldarnet-sweeps"]
    tags = {"mlflow.parentRunId": first.run_id}
    killed = client.create_run(experiment.experiment_id, tags=tags).info.run_id
    other = client.create_run(experiment.experiment_id).info.run_id

    again = parent_run(config, logged)
    assert again.run_id == first.run_id
    assert client.get_run(killed).info.status == "KILLED" and client.get_run(other).info.status == "RUNNING"
    again.end("FINISHED", {"nt/H3/valid/mcc": 0.5}, [tmp_path / "sweep.yaml"])
    run = client.get_run(first.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics == {"nt/H3/valid/mcc": 0.5}
    assert (
        run.data.params["space.optimizer.lr"] == "['1e-4', '1e-3']" or "0.001" in run.data.params["space.optimizer.lr"]
    )
    assert [file.path for file in client.list_artifacts(first.run_id)] == ["sweep.yaml"]
    client.delete_run(first.run_id)
    replaced = parent_run(config, logged)
    assert replaced.run_id not in (None, first.run_id) and client.get_run(replaced.run_id).info.status == "RUNNING"
    assert logged == []


def test_unreachable_store_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    logged: list[str] = []
    parent = parent_run(load(write(tmp_path), "tracking.mlflow=true"), logged)
    parent.end("FINISHED", {}, [])
    assert parent.run_id is None and len(logged) == 1 and "continuing without it" in logged[0]


def test_damaged_mlflow_file_is_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("ldarnet.jobs.tracking.connect", lambda uri: None)
    monkeypatch.setattr("ldarnet.jobs.tracking.experiment_id", lambda *_: "0")
    config = load(write(tmp_path), "tracking.mlflow=true")
    config.sweep.dir.mkdir(parents=True, exist_ok=True)
    for kind, content in damaged_bytes(b'{"tracking_uri": null, "run_id": "abc"}').items():
        (config.sweep.dir / "mlflow.json").write_bytes(content)
        logged: list[str] = []
        assert parent_run(config, logged).run_id is None
        assert len(logged) == 1 and "mlflow.json: damaged" in logged[0], kind
