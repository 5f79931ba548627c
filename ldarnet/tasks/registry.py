"""The registry of published tasks: rows, classes, source, published settings and known leakage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ldarnet.errors import UserError
from ldarnet.io.names import FileName, RelativePath, inside
from ldarnet.io.published_files import CachedFile
from ldarnet.io.records import Count, Sha256, parse_record, read_yaml

_REGISTRY = Path(__file__).with_name("registry.yaml")
_SPLITS = {2: ("train", "test"), 3: ("train", "valid", "test")}


@dataclass(frozen=True, slots=True)
class ReferenceAssembly:
    """A reference assembly from which the sequences of tasks are extracted.

    Attributes:
        name: key in the registry.
        also: alternative names that may occur in file names.
        url: URL of the FASTA file to which the published coordinates refer.
        contigs: contig lengths in bases, to detect a wrong assembly; empty if unknown.
    """

    name: str
    also: tuple[str, ...]
    url: str
    contigs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Task:
    """One published task.

    Attributes:
        name: name, unique within the suite.
        suite: nucleotide_transformer, genomic_benchmarks or gue.
        short: abbreviation of the suite, such as `nt`.
        folder: path of the folder with the files of the task, as published.
        source: URL of the publisher.
        revision: revision of the source; None if the source has no revisions.
        license: license of the data, free text.
        files: files to download; empty if the task has no direct download.
        rows: split -> published number of rows; empty if unknown.
        length: lengths of the shortest and the longest sequence, in bases.
        classes: class names, by label.
        metric: metric of the published results.
        lr: published learning rate for fine-tuning LDARNet; None if unpublished.
        batch: published global batch in sequences; None if unpublished.
        settings: source of `lr` and `batch`, or why they are None.
        leakage: one sentence on known overlap of test and training rows; None if no overlap is known.
        assemblies: class -> assembly that the coordinates of the class refer to; empty for tasks without coordinates.
        coordinates_sha256: path of a coordinate file inside `folder` -> SHA-256.
    """

    name: str
    suite: str
    short: str
    folder: str
    source: str
    revision: str | None
    license: str
    files: tuple[CachedFile, ...]
    rows: Mapping[str, int]
    length: tuple[int, int]
    classes: tuple[str, ...]
    metric: str
    lr: float | None
    batch: int | None
    settings: str
    leakage: str | None
    assemblies: Mapping[str, ReferenceAssembly] = field(default_factory=dict)
    coordinates_sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Name with suite, such as `nt/H3`."""
        return f"{self.short}/{self.name}"


@dataclass(frozen=True, slots=True)
class _AssemblyEntry:
    also: list[str]
    url: str
    contigs: dict[str, Count]


@dataclass(frozen=True, slots=True)
class _TaskEntry:
    rows: Annotated[list[Count], Field(min_length=2, max_length=3)] | None
    length: Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
    classes: Annotated[int, Field(ge=2, le=10_000)] | dict[str, str]
    leakage: str | None
    lr: float | None = None
    folder: RelativePath | None = None
    metric: str | None = None
    sha256: dict[FileName, Sha256] = field(default_factory=dict)
    coordinates_sha256: dict[RelativePath, Sha256] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _SuiteEntry:
    short: FileName
    license: str
    source: str
    revision: str | None
    files: list[str]
    metric: str
    batch: Count | None
    settings: str
    tasks: dict[FileName, _TaskEntry]


@dataclass(frozen=True, slots=True)
class _Registry:
    assemblies: dict[str, _AssemblyEntry]
    suites: dict[FileName, _SuiteEntry]


@cache
def all_tasks() -> dict[str, Task]:
    """All published tasks by `Task.key`, in the order of the registry."""
    return read_registry(_REGISTRY)


def read_registry(path: Path) -> dict[str, Task]:
    """Read a registry file; see registry.yaml for its keys.

    Raises:
        UserError: the file is malformed.
    """
    tree = json.dumps(read_yaml(path), default=str)
    content = parse_record(tree, _Registry, where=str(path), hint="fix the file")
    assemblies = {name: _assembly(name, entry) for name, entry in content.assemblies.items()}
    tasks = {}
    for suite_name, suite in content.suites.items():
        for name, entry in suite.tasks.items():
            try:
                task = _task(name, entry, suite_name, suite, assemblies, str(path))
            except (KeyError, IndexError) as error:
                raise UserError(
                    f"{path}: {suite_name}: {name}: unknown assembly or placeholder {error}; fix the file"
                ) from None
            tasks[task.key] = task
    return tasks


def find_task(name: str) -> Task:
    """Find a task by suite and name (`gue/H3`), or by name only (`H3`, in the first suite with such a task).

    Raises:
        UserError: no published task has this name.
    """
    known = all_tasks()
    suite, _, rest = name.rpartition("/")
    for task in known.values():
        if task.name == rest and suite in ("", task.short, task.suite):
            return task
    by_lower = {one.lower(): one for one in [*(task.name for task in known.values()), *known]}
    near = [by_lower[one] for one in get_close_matches(name.lower(), by_lower, n=3)]
    guess = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UserError(
        f"task={name}: no published task of that name{guess}; choose one that `ldarnet tasks` lists, or set "
        "data.train to your own data"
    )


def find_tasks(names: str | list[str]) -> list[Task]:
    """Find tasks by their names or by the abbreviations of their suites, such as `nt`; each task is listed once.

    Raises:
        UserError: no published task has one of the names.
    """
    known = list(all_tasks().values())
    suites = {task.short for task in known}
    requested = [names] if isinstance(names, str) else names
    found = [
        [task for task in known if task.short == name] if name in suites else [find_task(name)] for name in requested
    ]
    return list({task.key: task for tasks in found for task in tasks}.values())


def _assembly(name: str, entry: _AssemblyEntry) -> ReferenceAssembly:
    return ReferenceAssembly(name, tuple(entry.also), entry.url, entry.contigs)


def _task(
    name: str,
    entry: _TaskEntry,
    suite_name: str,
    suite: _SuiteEntry,
    assemblies: Mapping[str, ReferenceAssembly],
    where: str,
) -> Task:
    classes, length, rows = entry.classes, entry.length, entry.rows or []
    folder = entry.folder or name
    urls = [f"{suite.source}/{path.format(folder=folder, revision=suite.revision)}" for path in suite.files]
    names = [url.rpartition("/")[2].partition("?")[0] for url in urls]
    for file in names:
        inside(Path(), file, where, "fix the file")
    return Task(
        name=name,
        suite=suite_name,
        short=suite.short,
        folder=folder,
        source=suite.source,
        revision=suite.revision,
        license=suite.license,
        files=tuple(CachedFile(file, url, entry.sha256.get(file)) for file, url in zip(names, urls, strict=True)),
        rows=dict(zip(_SPLITS[len(rows)], rows, strict=True)) if rows else {},
        length=(length, length) if isinstance(length, int) else (length[0], length[1]),
        classes=tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(sorted(classes)),
        metric=entry.metric or suite.metric,
        lr=entry.lr,
        batch=suite.batch,
        settings=suite.settings,
        leakage=entry.leakage,
        assemblies={} if isinstance(classes, int) else {kind: assemblies[one] for kind, one in classes.items()},
        coordinates_sha256=entry.coordinates_sha256,
    )
