"""Run checks within a time limit, each in a worker process, and save every result as soon as it is known."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_check.child import run_check
from benchmarks.gpu_check.results import FAILURE, NOT_RUN, Check, Entry, Record, Result
from benchmarks.worker import Worker, WorkerError, describe
from ldarnet.errors import UserError
from ldarnet.io.files import atomic_path, make_folder

RECORD, PAGE = "gpu-check.json", "gpu-check.md"
MACHINE_LIMIT = 120.0


class Session:
    """Runs checks one by one and writes the results files after each.

    Results in the folder are kept if code, versions and device are the same; otherwise the files are renamed. Checks
    that failed or were not run are run again.

    Args:
        folder: folder of the results files.
        minutes: time limit.
        render: renders the page.
        identify: the check that reports the machine, see `benchmarks.gpu_check.machine.machine`.
        environment: environment variables of the shared worker process.

    Raises:
        UserError: the machine cannot be used, or the folder contains damaged results.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        render: Callable[[Record], str],
        identify: Check,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.end, self.minutes, self._render = time.monotonic() + 60 * minutes, minutes, render
        self.folder, self.worker = make_folder(folder), Worker(environment=environment)
        self._kept: dict[str, Entry] = {}
        try:
            machine = self._call(identify, MACHINE_LIMIT)
        except WorkerError as error:
            raise UserError(f"this machine cannot be used: {error}") from None
        if reason := machine.get(NOT_RUN):
            raise UserError(f"this machine cannot be used: {reason}; install it")
        self.record = Record(machine["identity"], machine["made_with"])
        self._load()

    @property
    def page(self) -> Path:
        """Path of the page."""
        return self.folder / PAGE

    def run(self, checks: Sequence[Check], report: Callable[[str], None]) -> None:
        """Run all checks that have no result yet; `report` is called with a line about each check."""
        self.record.planned = [check.name for check in checks]
        for check in checks:
            kept = self._kept.get(check.name)
            if kept is not None and kept.check == check and kept.done:
                entry, outcome = kept, "kept"
            else:
                entry = self._measure(check)
                outcome = self._outcome(entry)
            self.record.entries.append(entry)
            self._write()
            report(f"{check.name}: {outcome}")

    def close(self) -> None:
        """End the worker process."""
        self.worker.close()

    def _measure(self, check: Check) -> Entry:
        begin = time.monotonic()
        remaining = self.end - begin
        if remaining <= 0:
            earlier = self._kept.get(check.name)
            if earlier is not None and earlier.check == check:
                return earlier  # failed, but may have partial results
            return Entry(check, {NOT_RUN: f"time limit of {self.minutes:g} minutes"})
        try:
            result = self._call(check, min(check.limit, remaining))
        except WorkerError as error:
            cut = error.timed_out and remaining < check.limit
            reason = {NOT_RUN: f"stopped at the time limit of {self.minutes:g} minutes"} if cut else {}
            result = {**(error.partial or {}), **(reason or {FAILURE: str(error)})}
        return Entry(check, result, round(time.monotonic() - begin, 1))

    def _call(self, check: Check, seconds: float) -> Result:
        worker = self.worker if check.environment is None else Worker(environment=check.environment)
        try:
            return worker(run_check, check.function, check.settings, seconds=seconds)
        finally:
            if worker is not self.worker:
                worker.close()

    def _outcome(self, entry: Entry) -> str:
        if entry.done:
            return f"done in {entry.seconds:.1f} s"
        return f"FAILED: {entry.result[FAILURE]}" if FAILURE in entry.result else f"not run: {entry.result[NOT_RUN]}"

    def _load(self) -> None:
        path = self.folder / RECORD
        if not path.exists():
            return
        old = Record.read(path)
        if old.identity == self.record.identity:
            self._kept = {entry.check.name: entry for entry in old.entries}
            return
        number = 1
        while any(self._renamed(name, number).exists() for name in (RECORD, PAGE)):
            number += 1
        for name in (RECORD, PAGE):
            if (self.folder / name).exists():
                (self.folder / name).rename(self._renamed(name, number))

    def _renamed(self, name: str, number: int) -> Path:
        path = self.folder / name
        return path.with_stem(f"{path.stem}-{number}")

    def _write(self) -> None:
        """Write the results; entries of earlier calls that are not reached yet are included."""
        names = {entry.check.name for entry in self.record.entries}
        rest = [entry for name, entry in self._kept.items() if name not in names]
        record = replace(self.record, entries=[*self.record.entries, *rest])
        record.write(self.folder / RECORD)
        with atomic_path(self.page) as partial:
            partial.write_text(self._text(record), encoding="utf-8")

    def _text(self, record: Record) -> str:
        """Render the page; an error in the page must not end the measurements."""
        try:
            return self._render(record)
        except Exception as error:
            return f"The page cannot be rendered ({describe(error)}); the results are in {RECORD}.\n"
