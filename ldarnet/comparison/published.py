"""Published results on the tasks, each with its source, protocol and kind of interval; the files: `published/`."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

FOLDER = Path(__file__).parent / "published"
FOLDS_SOURCE = "ldarnet-updated"
"""The source whose single folds are published."""


@dataclass(frozen=True)
class Publication:
    """A publication.

    Attributes:
        key: its name in the files.
        title, where, url: the publication, the place in it, where to read it.
        read: what the numbers were taken from.
        protocol: folds or seeds, what was held out, what was tested.
        interval: `t95` half width of the 95% interval by Student's t over folds, `range` the largest minus the smallest
            value over seeds, `none`.
        test: whether its test rows are the published ones.
        ranked: whether wins and mean ranks may count its numbers: of one protocol, and on the official test rows.
        parameters: millions of parameters of the models, where they are given.
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
class Number:
    """One published result.

    Attributes:
        source: where it is from.
        suite, task, model: what was learned by which model.
        metric: `mcc`, `accuracy`, `f1` (weighted by rows, as ours), `f1_binary` (of class 1) or `f1_unstated`.
        value: as printed, on the scale 0 to 1.
        interval: as printed, of the source's kind; None where there is none.
        folds: values of the single folds, in their order; empty where they are not published.
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
    """All publications by key."""
    content = yaml.safe_load((FOLDER / "sources.yaml").read_text(encoding="utf-8"))
    return {key: Publication(key, **fields) for key, fields in content.items()}


@cache
def published(suite: str, task: str) -> tuple[Number, ...]:
    """All published results on a task, in the order of the files; none for a task of the user's own."""
    return tuple(number for number in _numbers() if (number.suite, number.task) == (suite, task))


@cache
def _numbers() -> tuple[Number, ...]:
    folds: defaultdict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for fold in sorted(_rows("ldarnet_folds.csv"), key=lambda row: int(row["fold"])):
        folds[fold["suite"], fold["task"]].append(fold)
    return tuple(
        Number(
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
