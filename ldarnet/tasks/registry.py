"""The published tasks that there are: what they hold, where they come from, and what is known of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ldarnet.errors import UserError

_REGISTRY = Path(__file__).with_name("registry.yaml")
_SPLITS = {2: ("train", "test"), 3: ("train", "valid", "test")}


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at its publisher.

    Attributes:
        name: under which it is kept.
        url: where it lies.
        sha256: what it must have; None where its publisher states none.
    """

    name: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Assembly:
    """A reference that coordinates are counted on.

    Attributes:
        name: as coordinates call it.
        also: other names that its files go by.
        url: of the FASTA file that the publisher of the coordinates took.
        contigs: lengths in bases, of those contigs by which another assembly is told.
    """

    name: str
    also: tuple[str, ...]
    url: str
    contigs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Task:
    """One published task.

    Attributes:
        name: within its suite.
        suite: nucleotide_transformer, genomic_benchmarks or gue.
        short: the suite in short, as in ``nt/H3``.
        folder: of its files in the publisher's tree.
        source: URL of the publisher.
        revision: of the source; None where it has none.
        licence: in words.
        files: to be fetched; none where a program cannot.
        rows: split -> published number of rows; empty where it is not known.
        length: bases of the shortest and of the longest sequence.
        classes: names of the classes, by label.
        metric: that results are published in.
        lr: published learning rate of LDARNet's fine-tuning; None where there is none.
        batch: sequences a step, likewise.
        settings: where ``lr`` and ``batch`` are published, or why they are None.
        leakage: what is known of test rows in training, a sentence; None where nothing is.
        assemblies: class -> the reference of its coordinates; empty where a task has none.
        coordinates_sha256: path of a file of coordinates in ``folder`` -> its hash.
    """

    name: str
    suite: str
    short: str
    folder: str
    source: str
    revision: str | None
    licence: str
    files: tuple[Remote, ...]
    rows: Mapping[str, int]
    length: tuple[int, int]
    classes: tuple[str, ...]
    metric: str
    lr: float | None
    batch: int | None
    settings: str
    leakage: str | None
    assemblies: Mapping[str, Assembly] = field(default_factory=dict)
    coordinates_sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name with the suite, such as ``nt/H3``."""
        return f"{self.short}/{self.name}"


@cache
def all_tasks() -> dict[str, Task]:
    """Every published task, by its name with the suite (``nt/H3``), in the order of the suites."""
    content = yaml.safe_load(_REGISTRY.read_text(encoding="utf-8"))
    assemblies = {name: _assembly(name, entry) for name, entry in content["assemblies"].items()}
    tasks = [
        _task(name, entry, suite_name, suite, assemblies)
        for suite_name, suite in content["suites"].items()
        for name, entry in suite["tasks"].items()
    ]
    return {task.key: task for task in tasks}


def find_task(name: str) -> Task:
    """A task by its name, alone (``H3``: the first suite that has it) or with the suite (``gue/H3``).

    Raises:
        UserError: there is none of that name.
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
        f"task={name}: no published task of that name{guess} (`ldarnet tasks` lists them); for your own data name "
        "data.train"
    )


def _assembly(name: str, entry: Mapping[str, Any]) -> Assembly:
    contigs = {str(contig): length for contig, length in entry["contigs"].items()}
    return Assembly(name, tuple(entry["also"]), entry["url"], contigs)


def _task(
    name: str, entry: Mapping[str, Any], suite_name: str, suite: Mapping[str, Any], assemblies: Mapping[str, Assembly]
) -> Task:
    classes, length, rows = entry["classes"], entry["length"], entry["rows"] or []
    folder, named = entry.get("folder", name), not isinstance(classes, int)
    urls = [f"{suite['source']}/{path.format(folder=folder, revision=suite['revision'])}" for path in suite["files"]]
    names, hashes = [url.rpartition("/")[2].partition("?")[0] for url in urls], entry.get("sha256", {})
    return Task(
        name=name,
        suite=suite_name,
        short=suite["short"],
        folder=folder,
        source=suite["source"],
        revision=suite["revision"],
        licence=suite["licence"],
        files=tuple(Remote(file, url, hashes.get(file)) for file, url in zip(names, urls, strict=True)),
        rows=dict(zip(_SPLITS[len(rows)], rows, strict=True)) if rows else {},
        length=(length, length) if isinstance(length, int) else tuple(length),
        classes=tuple(sorted(classes)) if named else tuple(map(str, range(classes))),
        metric=entry.get("metric", suite["metric"]),
        lr=entry.get("lr"),
        batch=suite["batch"],
        settings=suite["settings"],
        leakage=entry["leakage"],
        assemblies={kind: assemblies[assembly] for kind, assembly in classes.items()} if named else {},
        coordinates_sha256=entry.get("coordinates_sha256", {}),
    )
