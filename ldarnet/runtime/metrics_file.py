"""JSON Lines files such as metrics.jsonl, in which no step is repeated after a restart."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, space_errors


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics file before the first truncated line; empty if the file does not exist."""
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
    """Appends lines without buffering, so that a crash loses at most the line being written."""

    def __init__(self, run_dir: Path, completed_steps: int, name: str = run_files.METRICS) -> None:
        """Open a file for appending, and delete the lines of steps after `completed_steps`, which will run again.

        Args:
            run_dir: run folder; must exist.
            completed_steps: number of steps completed in the checkpoint that the run resumes from.
            name: name of the file in the run folder.

        Raises:
            UserError: the disk is full.
        """
        self.path = run_dir / name
        lines = [line for line in read_metrics(self.path) if line["step"] <= completed_steps]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self._file = self.path.open("ab", buffering=0)
        self._pending = b""

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, after any lines whose earlier writes failed.

        Raises:
            OSError: writing failed; the line is kept in memory and written by the next call.
        """
        self._pending += (json.dumps(line) + "\n").encode()
        self.flush()

    def flush(self) -> None:
        """Write the lines that were kept in memory because an earlier write failed.

        Raises:
            OSError: writing failed again; the lines are still kept in memory.
        """
        with space_errors(self.path):
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]

    def close(self) -> None:
        """Close the file, ignoring errors: failed writes have already been reported."""
        with suppress(OSError):
            self._file.close()
