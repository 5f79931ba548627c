"""The sweep's own MLflow run, under which fine-tuning puts one for each trial."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ldarnet.config import flatten
from ldarnet.config.sweep import SweepConfig
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.runtime.tracking import tracking_uri, without_user

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_LETTERS = 500
MOST_RUNS = 1000


class ParentRun:
    """One MLflow run, continued under the id kept in the sweep's mlflow.json.

    Without it the sweep goes on: everything is in files anyway.

    Args:
        config: of the sweep.
        say: prints one line for the user.

    Attributes:
        run_id: for the trials; None where tracking is off, or its store cannot be reached.
        uri: of the store, for the trials.
    """

    def __init__(self, config: SweepConfig, say: Callable[[str], None]) -> None:
        self._root, self._config, self._say = config.sweep.dir.absolute(), config, say
        self._experiment = ""
        self.run_id: str | None = None
        self.uri = tracking_uri(self._root)
        if config.tracking.mlflow:
            self._attempt(self._begin)

    def end(self, status: str, numbers: dict[str, float], files: list[Path]) -> None:
        """Keep what was found, and end the run as FINISHED, FAILED or KILLED."""

        def send() -> None:
            client = _client(self.uri)
            assert self.run_id is not None
            for name, value in numbers.items():
                client.log_metric(self.run_id, name, value)
            for file in files:
                client.log_artifact(self.run_id, str(file))
            self._close_children(client)
            client.set_terminated(self.run_id, status)

        if self.run_id is not None:
            self._attempt(send)

    def _begin(self) -> None:
        client, file = _client(self.uri), self._root / run_files.MLFLOW
        # The trials would all make the tables and the experiment at once.
        self._experiment = self._find_experiment(client)
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if known.get("tracking_uri") == without_user(self.uri) and _is_there(client, known["run_id"]):
            client.update_run(known["run_id"], status="RUNNING")
            self.run_id = known["run_id"]
            self._close_children(client)
            return
        run_id = client.create_run(self._experiment, run_name=self._root.name).info.run_id
        for key, value in flatten(self._config).items():
            client.log_param(run_id, key, str(value)[:MOST_LETTERS])
        write_json_atomic(file, {"tracking_uri": without_user(self.uri), "run_id": run_id}, indent=2)
        self.run_id = run_id

    def _find_experiment(self, client: "MlflowClient") -> str:
        name = self._config.tracking.experiment
        if (found := client.get_experiment_by_name(name)) is not None:
            return found.experiment_id
        local = not os.environ.get("MLFLOW_TRACKING_URI")
        return client.create_experiment(name, (self._root / run_files.MLFLOW_ARTIFACTS).as_uri() if local else None)

    def _close_children(self, client: "MlflowClient") -> None:
        """End the runs of trials that were killed: the ones that go on open theirs again."""
        running = f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([self._experiment], running, max_results=MOST_RUNS):
            client.set_terminated(run.info.run_id, "KILLED")

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever the store does, the sweep goes on
            reason = " ".join(without_user(str(error)).split())[:200] or type(error).__name__
            self._say(f"MLflow: {reason}; the sweep goes on, its results are in {self._root}")


def _is_there(client: "MlflowClient", run_id: str) -> bool:
    """Whether a run has not been deleted, alone or with its whole store."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _client(uri: str) -> "MlflowClient":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)
