"""AUROC and AUPRC of variant scores on a labeled table, with a bootstrap over matched groups."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.errors import UserError
from ldarnet.genomics.variants.score import all_scores
from ldarnet.genomics.variants.table import unit
from ldarnet.markdown import escape, table
from ldarnet.plugins import suggestion
from ldarnet.printable import printable

if TYPE_CHECKING:
    import pyarrow

POSITIVE = ("1", "true", "pathogenic", "likely_pathogenic", "pathogenic/likely_pathogenic", "lof")
"""Labels of the positive class if none are given, in lower case with _ for spaces."""
NEGATIVE = ("0", "false", "benign", "likely_benign", "benign/likely_benign", "func")
METRICS = ("auroc", "auprc")
MEAN = "mean of chromosomes"
"""Row of a metric that is averaged over chromosomes with both classes, weighted by their variants."""

_ABSOLUTE = re.compile(r"abs\((.+)\)")


@dataclass(frozen=True, slots=True)
class Labeled:
    """Labeled variants.

    Attributes:
        labels: (n,) bool.
        chromosomes: (n,) str.
        groups: (n,) int64, index of the matched group of each variant.
        rows: (n,) int64, rows of the table.
        dropped: rows with another label.
    """

    labels: np.ndarray
    chromosomes: np.ndarray
    groups: np.ndarray
    rows: np.ndarray
    dropped: int


@dataclass(frozen=True, slots=True)
class Result:
    """A score on all variants, on one chromosome, or averaged over chromosomes.

    Attributes:
        score: column, with its sign; ``-llr`` ranks low ratios first.
        subset: ``all``, `MEAN` or the name of a chromosome.
        variants: number of variants with a score.
        positives: number of positive variants among them.
        missing: number of variants without a score, which are left out.
        auroc: area under the ROC curve; None if only one class is present.
        auprc: average precision.
        intervals: metric -> 2.5% and 97.5% quantiles of the bootstrap; only for ``all`` and `MEAN`.
    """

    score: str
    subset: str
    variants: int
    positives: int
    missing: int
    auroc: float | None
    auprc: float | None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def read_labels(
    path: Path,
    rows: pyarrow.Table,
    numbers: Sequence[int],
    label: str,
    *,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    group: str | None = None,
    hint: str | None = None,
) -> Labeled:
    """Read the labels, chromosomes and matched groups of a table.

    Rows whose label is in neither class are dropped. Without a column of groups, each variant is a group. ``hint`` says
    what to do if a class has no variants; by default, to choose its labels.

    Raises:
        UserError: a column is missing, a group or chromosome is empty, or a class has no variants.
    """
    for name in ("chrom", label, *([group] if group else ())):
        if name not in rows.column_names:
            raise UserError(f"{path}: no column {printable(name)}; {suggestion(name, rows.column_names)}")
    classes = [
        {_normal(value) for value in given or known} for given, known in ((positive, POSITIVE), (negative, NEGATIVE))
    ]
    if both := classes[0] & classes[1]:
        raise UserError(f"--positive and --negative: {printable(min(both))} is in both; choose one class")
    values = [_normal(value) for value in rows[label].to_pylist()]
    kept = [index for index, value in enumerate(values) if value in classes[0] or value in classes[1]]
    labels = np.array([values[index] in classes[0] for index in kept], bool)
    for name, found in (("positive", labels.any()), ("negative", not labels.all())):
        if not kept or not found:
            seen = ", ".join(printable(value[:30]) for value in sorted({*values})[:5])
            raise UserError(
                f"{path}: column {printable(label)} has no {name} label (its labels: {seen}); "
                f"{hint or f'choose labels with --{name}'}"
            )
    columns = {}
    for name in ("chrom", *([group] if group else ())):
        column = rows[name].to_pylist()
        columns[name] = [str(column[index]) for index in kept]
        for index in kept:
            if column[index] is None or column[index] == "":
                raise UserError(f"{path}: {unit(path)} {numbers[index]}: {printable(name)} is empty; write a value")
    chromosomes = np.array(columns["chrom"])
    groups = np.unique(columns[group], return_inverse=True)[1] if group else np.arange(len(kept))
    return Labeled(labels, chromosomes, groups, np.array(kept, np.int64), rows.num_rows - len(kept))


def default_scores(rows: pyarrow.Table) -> list[str]:
    """Columns of `ldarnet score-variants` in a table, with the sign that ranks large effects first."""
    return [score.ranking for score in all_scores() if score.name in rows.column_names]


def evaluate(
    path: Path,
    rows: pyarrow.Table,
    labeled: Labeled,
    scores: Sequence[str],
    *,
    resamples: int,
    seed: int,
    by_chromosome: bool = True,
) -> list[Result]:
    """Evaluate scores: on all variants, averaged over chromosomes, and on each chromosome.

    Args:
        path: path of the table, for error messages.
        rows: the table.
        labeled: labels; see `read_labels`.
        scores: columns; ``-NAME`` ranks low values first, ``abs(NAME)`` ranks by magnitude.
        resamples: number of bootstrap resamples of groups.
        seed: seed of the resamples.
        by_chromosome: whether to evaluate chromosomes, too.

    Raises:
        UserError: a column is missing or not numeric, or has no values for one of the classes.
    """
    return [
        result
        for score in scores
        for result in _results(score, labeled, _values(path, rows, score)[labeled.rows], resamples, seed, by_chromosome)
    ]


def report(results: Sequence[Result], settings: dict[str, Any]) -> str:
    """Format results as Markdown."""
    title = "# Evaluation of variant scores\n\n" + "".join(
        f"- {name}: {escape(str(value))}\n" for name, value in settings.items()
    )
    note = (
        "\nAUPRC of a random score is the share of positives. Intervals are 95%, from a bootstrap over groups."
        + (
            f" `{MEAN}` weights each chromosome with both classes by its number of variants."
            if any(result.subset == MEAN for result in results)
            else ""
        )
        + "\n\n"
    )
    header = ("score", "variants of", "variants", "positives", "missing", "AUROC", "interval", "AUPRC", "interval")
    lines = [
        (
            escape(r.score),
            escape(r.subset),
            f"{r.variants:,}",
            f"{r.positives:,}",
            f"{r.missing:,}",
            *(
                cell
                for name in METRICS
                for cell in (
                    math.nan if getattr(r, name) is None else getattr(r, name),
                    "-".join(f"{edge:.3f}" for edge in r.intervals[name]) if name in r.intervals else "",
                )
            ),
        )
        for r in results
    ]
    return title + note + table(header, lines) + "\n"


def as_json(results: Sequence[Result], settings: dict[str, Any]) -> dict[str, Any]:
    """Results and settings as a JSON object."""
    return {"settings": settings, "results": [asdict(result) for result in results]}


def _normal(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value).strip().lower().replace(" ", "_")


def _values(path: Path, rows: pyarrow.Table, score: str) -> np.ndarray:
    """Values of a score, (rows,) float64, NaN where there is none; larger values rank first."""
    absolute = _ABSOLUTE.fullmatch(score)
    name = absolute[1] if absolute else score.removeprefix("-")
    if name not in rows.column_names:
        raise UserError(f"{path}: no column {printable(name)}; {suggestion(name, rows.column_names)}")
    column = rows[name].to_pylist()
    try:
        values = np.array([math.nan if value in (None, "") else float(value) for value in column])
    except (TypeError, ValueError):
        raise UserError(f"{path}: column {printable(name)} has values that are not numbers; choose another") from None
    return np.abs(values) if absolute else -values if score.startswith("-") else values


def _results(
    score: str, labeled: Labeled, values: np.ndarray, resamples: int, seed: int, by_chromosome: bool
) -> list[Result]:
    known = np.isfinite(values)
    labels, values, groups = labeled.labels[known], values[known], labeled.groups[known]
    names, chromosomes = np.unique(labeled.chromosomes, return_inverse=True)
    which = chromosomes[known]
    subsets: dict[str, Callable[[np.ndarray], dict[str, float | None]]] = {
        "all": lambda index: metrics(labels[index], values[index]),
    }
    if by_chromosome:
        subsets[MEAN] = lambda index: _mean_of_chromosomes(labels[index], values[index], which[index])
    everything = np.arange(len(labels))
    draws = list(_resampled(groups, resamples, seed)) if len(labels) else []
    results = []
    for subset, compute in subsets.items():
        drawn = [compute(index) for index in draws]
        intervals = {}
        for name in METRICS:
            defined = [value for entry in drawn if (value := entry[name]) is not None]
            if defined:
                low, high = np.quantile(defined, [0.025, 0.975])
                intervals[name] = (float(low), float(high))
        missing = int((~known).sum())
        results.append(
            Result(score, subset, len(labels), int(labels.sum()), missing, **compute(everything), intervals=intervals)
        )
    for number, name in enumerate(names.tolist() if by_chromosome else ()):
        index = np.flatnonzero(which == number)
        missing = int(((chromosomes == number) & ~known).sum())
        found = metrics(labels[index], values[index])
        counts = (len(index), int(labels[index].sum()), missing)
        results.append(Result(score, name, *counts, found["auroc"], found["auprc"]))
    return results


def metrics(labels: np.ndarray, values: np.ndarray) -> dict[str, float | None]:
    """AUROC and average precision; None if only one class is present."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    if len(labels) == 0 or labels.all() or not labels.any():
        return dict.fromkeys(METRICS)
    return {"auroc": float(roc_auc_score(labels, values)), "auprc": float(average_precision_score(labels, values))}


def _mean_of_chromosomes(labels: np.ndarray, values: np.ndarray, which: np.ndarray) -> dict[str, float | None]:
    found, weights = [], []
    for number in np.unique(which):
        inside = which == number
        one = metrics(labels[inside], values[inside])
        if one["auroc"] is not None:
            found.append([one[name] for name in METRICS])
            weights.append(inside.sum())
    if not found:
        return dict.fromkeys(METRICS)
    return dict(zip(METRICS, np.average(found, axis=0, weights=weights).tolist(), strict=True))


def _resampled(groups: np.ndarray, resamples: int, seed: int) -> Any:
    """Yield the indices of the variants of each resample of groups, drawn with replacement."""
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    for _ in range(resamples):
        yield np.concatenate([members[drawn] for drawn in rng.integers(len(members), size=len(members))])
