"""Published results, each with its source, its protocol and the meaning of its ± (files in `published/`)."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ldarnet.io.records import read_yaml

FOLDER = Path(__file__).parent / "published"
FOLDS_SOURCE = "ldarnet-updated"
"""Key of the only publication that reports individual folds."""


@dataclass(frozen=True)
class Publication:
    """A publication that reports results.

    Attributes:
        key: identifier of the publication in `published/`.
        title, where, url: publication, location within it, and link.
        read: document or file that the values were read from.
        protocol: description of the folds or seeds, the held-out rows and the test rows.
        interval: meaning of the reported ±. `t95` is the half-width of the 95% confidence interval (Student's t over
            folds), `range` is the maximum minus the minimum over seeds, and `none` means that no ± is reported.
        test: `official` if the test rows are the official ones, `other` if they are not, `unstated` if the source does
            not say.
        ranked: whether wins and mean ranks include these results. A ranked publication obtains all its results with
            the same protocol and on the official test rows.
        parameters: number of parameters of each model, in millions; omits models without a reported number.
    """

    key: str
    title: str
    where: str
    url: str
    read: str
    protocol: str
    interval: Literal["t95", "range", "none"]
    test: Literal["official", "other", "unstated"]
    ranked: bool
    parameters: dict[str, float]


@dataclass(frozen=True)
class PublishedResult:
    """A published result of one model on one task.

    Attributes:
        metric: `mcc`, `accuracy`, `f1` (weighted by class size), `f1_binary` (of class 1) or `f1_unstated` (the
            source does not say how classes are averaged).
        value: published value, on a scale where 1 is perfect.
        interval: the published ±; None if not reported. `source.interval` states its meaning.
        folds: values of the individual folds in order; empty if not published.
    """

    source: Publication
    suite: str
    task: str
    model: str
    metric: str
    value: float
    interval: float | None
    folds: tuple[float, ...] = ()


@cache
def sources() -> dict[str, Publication]:
    """Load all publications, by key."""
    content = read_yaml(FOLDER / "sources.yaml")
    return {key: Publication(key, **fields) for key, fields in content.items()}


@cache
def published(suite: str, task: str) -> tuple[PublishedResult, ...]:
    """Published results on a task, in file order; empty for user-provided tasks."""
    return tuple(result for result in _all_results() if (result.suite, result.task) == (suite, task))


@cache
def _all_results() -> tuple[PublishedResult, ...]:
    folds: defaultdict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for fold in sorted(_rows("ldarnet_folds.csv"), key=lambda row: int(row["fold"])):
        folds[fold["suite"], fold["task"]].append(fold)
    return tuple(
        PublishedResult(
            source=sources()[row["source"]],
            suite=row["suite"],
            task=row["task"],
            model=row["model"],
            metric=row["metric"],
            value=float(row["value"]),
            interval=float(row["interval"]) if row["interval"] else None,
            folds=tuple(
                float(fold[row["metric"]]) for fold in folds[row["suite"], row["task"]] if row["source"] == FOLDS_SOURCE
            ),
        )
        for row in _rows("tables.csv")
    )


def _rows(name: str) -> Iterator[dict[str, str]]:
    with open(FOLDER / name, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
