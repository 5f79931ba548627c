"""metrics.jsonl and MLflow."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow.utils import validation

from ldarnet.config import load_config
from ldarnet.runtime import tracking
from ldarnet.runtime.metrics_file import MetricsFile, read_metrics
from ldarnet.runtime.ports import free_port
from ldarnet.runtime.tracking import Tracker

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


def test_mlflow_run_is_resumed(config):
    for first in (1, 3):
        tracker = Tracker(config, pytest.fail, {"ssd": f"of start {first}"})
        for step in (first, first + 1):
            tracker.log({"step": step, **TRAIN})
        tracker.log_artifact(config.run.dir / "mlflow.json" if first > 1 else Path(config.data.shards) / "index.json")
        tracker.close("FINISHED")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{config.run.dir}/mlflow.db")
    (experiment,) = [found for found in client.search_experiments() if found.name == "ldarnet-pretraining"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.0005"
    assert run.data.tags["kernels.ssd"] == "of start 3"
    assert run.data.metrics["train/lr/stage0/decay"] == 0.1
    assert run.data.metrics["train/bases_per_chunk/stage1"] == 16.0
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"index.json", "mlflow.json"}
    assert (config.run.dir / "mlartifacts").is_dir()


@pytest.fixture
def no_store_at(monkeypatch):
    """Set the tracking URI to an address where nothing answers."""

    def unreachable(address):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.01)

    return unreachable


def test_unreachable_store_is_logged_once_and_does_not_stop_training(config, no_store_at):
    no_store_at("http://127.0.0.1:9")
    logged = []
    tracker = Tracker(config, logged.append)
    for step in range(3):
        tracker.log({"step": step, **TRAIN})
    tracker.close("FINISHED")
    assert len(logged) == 1
    assert "MLflow is unreachable" in logged[0]
    assert not (config.run.dir / "mlflow.json").exists()


@pytest.fixture
def track_with_one_failure(monkeypatch):
    """Track a step while the first call of a method (of `MlflowClient` by default) fails; return tracker and log."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def track(config, method, owner=MlflowClient):
        works, failures, logged = getattr(owner, method), [MlflowException("out of order")], []

        def fail_once(*arguments, **named):
            if failures:
                raise failures.pop()
            return works(*arguments, **named)

        monkeypatch.setattr(owner, method, fail_once)
        monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.1)
        tracker = Tracker(config, logged.append)
        tracker.log({"step": 1, **TRAIN})
        while failures:
            time.sleep(0.05)
        tracker.close("FINISHED")
        assert ["is unreachable (out of order)" in line for line in logged] == [True]
        return tracker, logged

    return track


def test_password_in_the_tracking_uri_is_neither_logged_nor_saved(config, no_store_at, monkeypatch):
    no_store_at("http://ada:secret@127.0.0.1:9")
    logged = []
    tracker = Tracker(config, logged.append)
    tracker.close("FINISHED")
    assert "127.0.0.1" in logged[0]
    assert "secret" not in logged[0]
    made = SimpleNamespace(info=SimpleNamespace(run_id="7"), experiment_id="1")
    client = SimpleNamespace(
        get_experiment_by_name=lambda _: made,
        create_run=lambda *_, **__: made,
        get_run=lambda _: SimpleNamespace(data=SimpleNamespace(params={})),
        log_batch=lambda *_, **__: None,
    )
    monkeypatch.setattr("mlflow.MlflowClient", lambda **_: client)
    tracker._connect()
    kept = json.loads((config.run.dir / "mlflow.json").read_text())
    assert kept == {"tracking_uri": "http://127.0.0.1:9", "run_id": "7"}


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("https://ada:pass@mlflow.example:443/a?b=c@d", "https://mlflow.example:443/a?b=c@d"),
        ("https://ada:p@ss@host", "https://host"),
        ("sqlite:///runs/a@b/mlflow.db", "sqlite:///runs/a@b/mlflow.db"),
        ("postgresql://ada:pass@db:5432/x", "postgresql://db:5432/x"),
        ("databricks", "databricks"),
    ],
)
def test_run_is_identified_by_its_store_without_the_password(config, monkeypatch, address, kept):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert tracking.redact(address) == kept
    (config.run.dir / "mlflow.json").write_text(json.dumps({"tracking_uri": kept, "run_id": "7"}))
    assert Tracker(config, pytest.fail).run_id == "7"
    (config.run.dir / "mlflow.json").write_text(json.dumps({"tracking_uri": address, "run_id": "7"}))
    assert Tracker(config, pytest.fail).run_id == "7"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://another.example")
    assert tracking._known_run(config.run.dir) is None


def runs_of(config):
    """All MLflow runs of the configured experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracking.tracking_uri(config.run.dir))
    return client.search_runs([client.get_experiment_by_name(config.tracking.experiment).experiment_id])


def test_full_disk_creates_no_second_run(config, track_with_one_failure):
    tracker, _ = track_with_one_failure(config, "write_json_atomic", tracking)
    (run,) = runs_of(config)
    assert json.loads((config.run.dir / "mlflow.json").read_text())["run_id"] == run.info.run_id == tracker.run_id


def test_only_a_missing_run_is_replaced(config, track_with_one_failure):
    """If the store fails while a run is resumed, the request is retried and the run stays the same."""
    first = Tracker(config, pytest.fail)
    first.close("KILLED")
    second, logged = track_with_one_failure(config, "update_run")
    assert second.run_id == first.run_id

    (config.run.dir / "mlflow.json").write_text(json.dumps({"tracking_uri": None, "run_id": "0" * 32}))
    third = Tracker(config, logged.append)
    third.close("FINISHED")
    assert "no longer exists in" in logged[-1]
    assert third.run_id not in (first.run_id, "0" * 32)


def test_parameters_are_retried(config_file, config, track_with_one_failure):
    """If the store fails just after creating the run, that run is reused. Species may have any number and names."""
    weights = {f"species {number} (a)": 1.0 for number in range(120)}
    config = load_config(config_file, ["tracking.mlflow=true", f"data.weights={json.dumps(weights)}"])
    tracker, _ = track_with_one_failure(config, "log_batch")
    (run,) = runs_of(config)
    assert run.info.run_id == tracker.run_id
    assert {name for name in run.data.params if name.startswith("data.weights.")} == {
        f"data.weights.species {number} _a_" for number in range(120)
    }
    assert run.data.params["optimizer.lr"] == "0.0005"
    assert run.data.metrics["train/loss"] == 1.5


def test_nothing_is_queued_without_mlflow(config_file):
    tracker = Tracker(load_config(config_file), pytest.fail)
    tracker.log({"step": 1, **TRAIN})
    tracker.log_artifact(config_file)
    assert tracker._queue.empty()
    tracker.close("FINISHED")


@pytest.mark.slow
def test_stopped_and_resumed_run_is_one_mlflow_run(config_file, run_ranks, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    arguments = ("--config", config_file, "tracking.mlflow=true")
    run_ranks(1, *arguments, "training.stop_after=4").succeed()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/run/mlflow.db")
    experiment = client.get_experiment_by_name("ldarnet-pretraining").experiment_id
    (stopped,) = client.search_runs([experiment])
    assert stopped.info.status == "KILLED"
    run_ranks(1, *arguments).succeed()
    (run,) = client.search_runs([experiment])
    assert (run.info.run_id, run.info.status) == (stopped.info.run_id, "FINISHED")
    assert run.data.params["training.steps"] == "10"
    assert run.data.params["model.preset"] == "tiny"
    assert run.data.metrics.keys() >= {
        *(f"train/{name}" for name in ("loss", "mlm_loss", "ratio_loss", "gradient_norm", "bases_per_second")),
        *(f"train/{name}/stage0" for name in ("bases_per_chunk", "boundary_probability")),
        *(f"train/lr/stage{stage}/{decay}" for stage in (0, 1) for decay in ("decay", "no_decay")),
        "valid/mlm_loss",
    }
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [metric.step for metric in history] == list(range(1, 11))
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "config.yaml",
        "training.png",
        "boundaries.png",
        "summary.txt",
    }


def test_package_imports_without_mlflow(tmp_path):
    program = "import sys; sys.modules['mlflow'] = None; import ldarnet, ldarnet.pretraining; print('fine')"
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout == "fine\n"


def test_only_scalars_are_tracked():
    line = {"step": 1, "split": "train", "boundary_histogram": [[0.5, 0.5]], "warnings": {"drift/stage0": "..."}}
    tracked = {metric.key: metric.value for metric in tracking._metrics(line | {"memory": {"host": 5}}, 0)}
    assert tracked == {"train/warnings": 1.0, "train/memory/host": 5.0}


def test_regions_of_any_name_are_tracked():
    line = {"step": 1, "split": "valid", "regions": {"LINE(L1)+ 5'": {"mlm_loss": 1.5}, "x" * 300: {"mlm_loss": 2.5}}}
    names = [metric.key for metric in tracking._metrics(line, 0)]
    assert names[0] == "valid/regions/LINE_L1__ 5_/mlm_loss"
    of_beds = [".", "..", "DNA/", "/x", "a//b", "", "/" * 300]
    names += [
        metric.key for name in of_beds for metric in tracking._metrics(line | {"regions": {name: {"loss": 1.0}}}, 0)
    ]
    assert "valid/regions/_/loss" in names
    for name in names:
        validation._validate_metric_name(name)
        assert len(name) <= 250


def test_pending_metrics_are_bounded(config, monkeypatch):
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(tracking, "MAX_PENDING", 50)
    sent, tries, dead = [], [], True

    def send(tracker, client, items):
        tries.append(len(items))
        if dead:
            raise OSError("dead")
        sent.extend(items)

    monkeypatch.setattr(Tracker, "_connect", lambda tracker: object())
    monkeypatch.setattr(Tracker, "_send", send)
    tracker = Tracker(config, lambda text: None)
    for step in range(200):
        tracker.log({"step": step, **TRAIN})
    while not tries or tries[-1] < 50:
        tracker.log({"step": 200, **TRAIN})
        time.sleep(0.02)
    dead = False
    tracker.close("FINISHED")
    assert max(tries) == len(sent) == 50
    assert sent[-1] == ("status", "FINISHED")


@pytest.mark.slow
def test_server_that_hangs_and_recovers_receives_all_metrics(config, tmp_path, monkeypatch):
    """Logging never blocks training steps."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", str(tmp_path)]
    server = subprocess.Popen(
        command,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def wait_for(happened):
        for _ in range(1200):
            with contextlib.suppress(OSError):
                if happened():
                    return
            time.sleep(0.1)
        raise AssertionError("the condition was not met within two minutes")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "FLUSH_SECONDS", 0.2)
    logged = []
    try:
        wait_for(lambda: urllib.request.urlopen(f"{url}/health", timeout=1).read() == b"OK")
        tracker = Tracker(config, logged.append)
        tracker.log({"step": 1, **TRAIN})
        wait_for((config.run.dir / "mlflow.json").is_file)
        os.killpg(server.pid, signal.SIGSTOP)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        for step in range(2, 12):
            begin = time.perf_counter()
            tracker.log({"step": step, **TRAIN})
            assert time.perf_counter() - begin < 0.9, "logging waited for the server"
            time.sleep(0.1)
        wait_for(lambda: logged)
        assert "MLflow is unreachable" in logged[0]
        os.killpg(server.pid, signal.SIGCONT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        tracker.close("FINISHED")
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=url)
        run = client.get_run(tracker.run_id)
        history = client.get_metric_history(tracker.run_id, "train/loss")
        assert run.info.status == "FINISHED"
        assert sorted(metric.step for metric in history) == list(range(1, 12))
        assert len(logged) == 1
    finally:
        os.killpg(server.pid, signal.SIGKILL)
