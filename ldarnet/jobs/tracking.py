"""MLflow run of a sweep or an ablation, the parent of the MLflow runs of its trials."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import StringConstraints
from typing_extensions import TypedDict

from ldarnet.config import flatten
from ldarnet.config.resources import ParentTrackingSection
from ldarnet.config.sections import Config
from ldarnet.io import run_files
from ldarnet.io.files import write_json_atomic
from ldarnet.io.records import read_record
from ldarnet.redaction import redact
from ldarnet.runtime.tracking import connect, experiment_id, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAM_CHARS = 500
MAX_RUNS = 1000


class _SavedRun(TypedDict):
    """Content of mlflow.json."""

    tracking_uri: str | None
    run_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,64}$")]


class ParentRun:
    """MLflow run of a sweep or an ablation. Its ID is saved in mlflow.json, so that later launches resume the same run.

    If MLflow fails, the failure is logged and the trials continue, because all results are also in files.

    Args:
        config: configuration of the sweep or the ablation; logged as parameters.
        root: folder of the sweep or the ablation.
        tracking: whether and where to log.
        log: prints one line.

    Attributes:
        run_id: MLflow run ID; None if tracking is disabled or MLflow failed.
        uri: tracking URI that the trials use.
    """

    def __init__(self, config: Config, root: Path, tracking: ParentTrackingSection, log: Callable[[str], None]) -> None:
        self._root, self._config, self._tracking, self._log = root.absolute(), config, tracking, log
        self._experiment = ""
        self.run_id: str | None = None
        self.uri = tracking_uri(self._root)
        if tracking.mlflow:
            self._attempt(self._start)

    def end(self, status: str, metrics: dict[str, float], files: list[Path]) -> None:
        """Log results and end the run as FINISHED, FAILED or KILLED."""

        def send() -> None:
            client = connect(self.uri)
            assert self.run_id is not None
            for name, value in metrics.items():
                client.log_metric(self.run_id, name, value)
            for file in files:
                client.log_artifact(self.run_id, str(file))
            self._end_children(client)
            client.set_terminated(self.run_id, status)

        if self.run_id is not None:
            self._attempt(send)

    def _start(self) -> None:
        client, file = connect(self.uri), self._root / run_files.MLFLOW
        # Create the tables and the experiment now; otherwise, all trials would create them concurrently.
        self._experiment = experiment_id(client, self._tracking.experiment, self._root)
        known = read_record(file, _SavedRun, hint="delete it to start a new MLflow run") if file.is_file() else None
        if known and known["tracking_uri"] == redact(self.uri) and _is_active(client, known["run_id"]):
            client.update_run(known["run_id"], status="RUNNING")
            self.run_id = known["run_id"]
            self._end_children(client)
            return
        run_id = client.create_run(self._experiment, run_name=self._root.name).info.run_id
        for key, value in flatten(self._config).items():
            client.log_param(run_id, key, redact(str(value))[:MAX_PARAM_CHARS])
        write_json_atomic(file, {"tracking_uri": redact(self.uri), "run_id": run_id}, indent=2)
        self.run_id = run_id

    def _end_children(self, client: "MlflowClient") -> None:
        """End the MLflow runs of trials that were killed. A trial that resumes reopens its run."""
        running = f"tags.`mlflow.parentRunId` = '{self.run_id}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([self._experiment], running, max_results=MAX_RUNS):
            client.set_terminated(run.info.run_id, "KILLED")

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # an MLflow failure must not end the trials
            reason = " ".join(redact(str(error)).split())[:200] or type(error).__name__
            self._log(f"warning: MLflow failed ({reason}); continuing without it; results are in {self._root}")


def _is_active(client: "MlflowClient", run_id: str) -> bool:
    """Whether a run exists and is not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
