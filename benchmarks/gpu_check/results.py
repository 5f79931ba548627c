"""Results of checks, and the file that holds them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ldarnet.errors import UserError
from ldarnet.io.files import read_errors, write_json_atomic

Result = dict[str, Any]
"""Result of a check, as written to JSON."""

FAILURE = "failure"
"""Key of the error message in the result of a failed check."""
NOT_RUN = "not_run"
"""Key of the reason why a check was not run."""

MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: name on the page; unique.
        group: section of the page.
        function: `<module>:<function>`, called in the worker process.
        settings: keyword arguments of the function; JSON values.
        limit: timeout in seconds.
        environment: environment variables of a worker process of its own; None to use the shared worker process.
    """

    name: str
    group: str
    function: str
    settings: dict[str, Any] = field(default_factory=dict)
    limit: float = 90.0
    environment: dict[str, str] | None = None


@dataclass(frozen=True)
class Entry:
    """A check and its result.

    Attributes:
        check: the check.
        result: its result; contains `FAILURE` or `NOT_RUN` if it is not complete, possibly beside partial results.
        seconds: duration, including the start of a worker process if one was started.
    """

    check: Check
    result: Result
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether the result is complete."""
        return FAILURE not in self.result and NOT_RUN not in self.result


@dataclass
class Record:
    """Content of the results file.

    Attributes:
        identity: code, versions and device; results are kept only if they are the same.
        made_with: lines of text about commit, hardware, versions and command.
        entries: checks and results, in the order of the plan.
        planned: names of the checks that the last call was to run, in order.
    """

    identity: dict[str, Any]
    made_with: list[str]
    entries: list[Entry] = field(default_factory=list)
    planned: list[str] = field(default_factory=list)

    @property
    def not_reached(self) -> list[str]:
        """Names of the planned checks that have no entry, because the program was interrupted or still runs."""
        reached = {entry.check.name for entry in self.entries}
        return [name for name in self.planned if name not in reached]

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json_atomic(path, asdict(self), indent=1)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record.

        Raises:
            UserError: the file cannot be read or is damaged.
        """
        content = read_object(path, "delete it to repeat all checks")
        try:
            entries = [
                Entry(Check(**entry["check"]), dict(entry["result"]), float(entry["seconds"]))
                for entry in content["entries"]
            ]
            planned = [str(name) for name in content.get("planned", ())]
            return cls(dict(content["identity"]), list(content["made_with"]), entries, planned)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: not a results file of benchmarks.gpu_check ({type(error).__name__}: {error}); delete it to "
                "repeat all checks"
            ) from None


def read_object(path: Path, hint: str) -> dict[str, Any]:
    """Read a JSON object without pydantic, which a bare GPU machine may lack.

    Raises:
        UserError: the file cannot be read, is too large, or is not a JSON object.
    """
    with read_errors(path), path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        parsed = json.loads(content)
        if not isinstance(parsed, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); {hint}") from None
    return parsed
