"""metrics.jsonl: one JSON object a line, which after any number of restarts reads like one unbroken run."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ldarnet.files import atomic_path, space_errors

NAME = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut short by a crash is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class MetricsFile:
    """Appends lines, each flushed, so that a crash loses at most the one being written."""

    def __init__(self, run_dir: Path, completed_steps: int) -> None:
        """Open for appending after dropping what lies beyond `completed_steps`: those steps will be run again.

        Raises:
            UserError: the device is full.
        """
        self.path = run_dir / NAME
        kept = [line for line in read_metrics(self.path) if line["step"] <= completed_steps]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            UserError: the device is full.
        """
        with space_errors(self.path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written has been told by `write`."""
        with suppress(OSError):
            self._file.close()
