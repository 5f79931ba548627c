"""JSON-lines files such as metrics.jsonl, which read like one unbroken run after any number of restarts."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, space_errors


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file, without a last line that a crash cut short."""
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
    """Appends lines unbuffered, so that a crash loses at most the line being written."""

    def __init__(self, run_dir: Path, completed_steps: int, name: str = run_files.METRICS) -> None:
        """Open for appending, and drop lines beyond `completed_steps`: those steps will be run again.

        Args:
            run_dir: run folder; must exist.
            completed_steps: completed steps of the run.
            name: file name within the folder.

        Raises:
            UserError: the device is full.
        """
        self.path = run_dir / name
        lines = [line for line in read_metrics(self.path) if line["step"] <= completed_steps]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self._file = self.path.open("ab", buffering=0)
        self._pending = b""

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, after those that could not be written earlier.

        Raises:
            OSError: writing failed; the line is kept in memory for the next call.
        """
        self._pending += (json.dumps(line) + "\n").encode()
        self.flush()

    def flush(self) -> None:
        """Write lines that are kept in memory.

        Raises:
            OSError: writing failed; they are still kept.
        """
        with space_errors(self.path):
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]

    def close(self) -> None:
        """Close the file; failed writes have been reported before."""
        with suppress(OSError):
            self._file.close()
