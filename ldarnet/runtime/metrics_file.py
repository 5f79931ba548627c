"""JSON Lines files such as metrics.jsonl, in which no step is repeated after a restart."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, read_errors, space_errors
from ldarnet.io.records import MAX_LINE_BYTES, Count, parse_record, read_records
from ldarnet.runtime.rank_log import LOG

ALL_STEPS = 2**53
"""Number of completed steps with which no line is deleted."""
MAX_LISTED_LINES = 5
"""Maximum number of damaged lines listed in a warning."""


@dataclass(frozen=True)
class StepLine:
    """The key that every line must have: `step`, the number of completed steps."""

    step: Count


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a metrics file, except for an incomplete last line; empty if the file does not exist.

    Raises:
        UserError: the file cannot be read, or a complete line is damaged.
    """
    if not path.is_file():
        return []
    return [line for _, line in read_records(path, dict[str, Any], hint="delete this line")]


class MetricsFile:
    """Appends lines without buffering, so that a crash loses at most the line being written."""

    def __init__(
        self,
        run_dir: Path,
        completed_steps: int,
        name: str = run_files.METRICS,
        warn: Callable[[str], None] = LOG.warning,
    ) -> None:
        """Open a file for appending, and delete the lines of steps after `completed_steps`, which will run again.

        Damaged lines and an incomplete last line are also deleted. If there are damaged lines, a copy of the old file
        is kept under another name.

        Args:
            run_dir: run folder; must exist.
            completed_steps: number of steps completed in the checkpoint that the run resumes from.
            name: name of the file in the run folder.
            warn: called with a message about damaged lines.

        Raises:
            UserError: the file cannot be read or written, or the disk is full.
        """
        self.path = run_dir / name
        with space_errors(self.path):
            self._truncate(completed_steps, warn)
            self._file = self.path.open("ab", buffering=0)
        self._pending = b""

    def _truncate(self, completed_steps: int, warn: Callable[[str], None]) -> None:
        if not self.path.exists():
            return
        found = _scan(self.path, completed_steps)
        if not found.damaged and found.contiguous:
            os.truncate(self.path, found.end)
            if found.needs_newline:
                with self.path.open("ab") as file:
                    file.write(b"\n")
            return
        copy = _keep_copy(self.path) if found.damaged else None
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            for _, line, step in _lines(self.path):
                if step is not None and step <= completed_steps:
                    file.write(line.removesuffix(b"\n") + b"\n")
        if copy is not None:
            listed = ", ".join(map(str, found.damaged)) + (", ..." if found.count > len(found.damaged) else "")
            warn(f"{self.path}: {found.count} damaged line(s) removed: {listed}; the old file is kept as {copy}")

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; lines that could not be written earlier are written first.

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


@dataclass
class _Scan:
    """Result of reading a file once.

    Attributes:
        end: offset in bytes of the end of the last line to keep.
        contiguous: whether all lines before `end` are kept.
        needs_newline: whether the last line to keep lacks its newline.
        count: number of damaged lines.
        damaged: line numbers of the first damaged lines, counted from 1.
    """

    end: int = 0
    contiguous: bool = True
    needs_newline: bool = False
    count: int = 0
    damaged: list[int] = field(default_factory=list)


def _scan(path: Path, completed_steps: int) -> _Scan:
    found, offset, deleting = _Scan(), 0, False
    for number, (size, line, step) in enumerate(_lines(path), start=1):
        offset += size
        complete = line.endswith(b"\n")
        if step is None and complete:
            found.count += 1
            if len(found.damaged) < MAX_LISTED_LINES:
                found.damaged.append(number)
        elif step is None or step > completed_steps:
            deleting = True
        else:
            found.contiguous = found.contiguous and not deleting
            found.end, found.needs_newline = offset, not complete
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes, int | None]]:
    """Yield (size in bytes, content, step) for each line; the step is None if the line is damaged or incomplete.

    A line that is longer than MAX_LINE_BYTES counts as damaged, and only its end is yielded as content.
    """
    with read_errors(path), path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            size, step = len(line), None
            if len(line) < MAX_LINE_BYTES:
                with suppress(UserError):
                    step = parse_record(line, StepLine, where="", hint="").step
            while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
                size += len(line)
            yield size, line, step


def _keep_copy(path: Path) -> Path:
    """Link or copy a file to an unused name; return the new path."""
    copy = next(name for n in count(1) if not (name := path.with_name(f"{path.name}.damaged-{n}")).exists())
    try:
        os.link(path, copy)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, copy)
    return copy
