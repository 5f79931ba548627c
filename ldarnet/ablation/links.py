"""Links from the report to the runs behind a value: to MLflow if the run has a tracking server, else to its folder."""

import os
from pathlib import Path
from urllib.parse import quote, urlsplit

from typing_extensions import TypedDict

from ldarnet.ablation.records import HINT
from ldarnet.io import run_files
from ldarnet.io.records import RunId, read_record
from ldarnet.markdown import escape


class TrackedRecord(TypedDict):
    """Content of mlflow.json."""

    run_id: RunId
    tracking_uri: str | None


class RunLinks:
    """Makes links for a file in `folder`, the folder of the report."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, str] = {}

    def url(self, run: Path) -> str:
        """URL of the MLflow run of a run folder, or the relative path of the folder.

        Raises:
            UserError: mlflow.json is malformed.
        """
        if run not in self._known:
            self._known[run] = self._mlflow(run) or quote(os.path.relpath(run, self._folder))
        return self._known[run]

    def markdown(self, text: str, run: Path) -> str:
        """Markdown link with this text."""
        return f"[{escape(text)}]({self.url(run)})"

    def numbered(self, runs: dict[str, Path]) -> str:
        """Links to several runs by seed, such as `([0](...), [1](...))`."""
        return f"({', '.join(self.markdown(name, run) for name, run in runs.items())})"

    def _mlflow(self, run: Path) -> str | None:
        path = run / run_files.MLFLOW
        if not path.is_file():
            return None
        tracked = read_record(path, TrackedRecord, hint=HINT)
        try:
            parts = urlsplit(tracked["tracking_uri"] or "")
            host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        except ValueError:  # not a valid address
            return None
        if parts.scheme not in ("http", "https") or not host:
            return None
        base = f"{parts.scheme}://{quote(host, safe=':')}{quote(parts.path.rstrip('/'), safe='/%')}"
        return f"{base}/#/runs/{tracked['run_id']}"
