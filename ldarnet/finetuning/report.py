"""`report.html` of a fine-tuning run: scores with intervals, training curves, learning curve, figures of folds."""

import base64
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from ldarnet.errors import UserError
from ldarnet.finetuning.display import number
from ldarnet.finetuning.records import EpochLine, FoldRecord, names_of, scores_of, stages_of, task_type_of
from ldarnet.finetuning.results import RESULT_HINT, read_result
from ldarnet.finetuning.summary import summary_of
from ldarnet.finetuning.targets import TARGETS
from ldarnet.interpret.figures import FAINT, short_number, styled_figure
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path
from ldarnet.io.records import read_bytes, read_records
from ldarnet.printable import printable
from ldarnet.report.drawing import NARROW, WIDE, Drawn, as_svg, format_time, template
from ldarnet.report.panels import COLORS, legend_above
from ldarnet.report.run_record import read_flat_config
from ldarnet.tasks.metrics import metric_name, metrics_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = {
    run_files.CONFUSION_FIGURE: "confusion matrix",
    run_files.ROC_FIGURE: "ROC",
    run_files.PRECISION_RECALL_FIGURE: "precision and recall",
    run_files.SCATTER_FIGURE: "predictions and labels",
}
MAX_FIGURE_BYTES = 2**24
MAX_FOLDS_WITH_FIGURES = 10
MAX_VALUE = 1e9
CURVES_HINT = "delete the folder of the fold to train it again"
INTERVALS = {
    True: "In brackets: 95% interval over the {split} rows of the fold (bootstrap). ±: half-width of the 95% "
    "confidence interval over folds (Student's t).",
    False: "In brackets: 95% interval over the {split} rows (bootstrap); the model is not retrained.",
}


def write_finetuning_report(folder: Path, out: Path, others: Sequence[Path] = ()) -> int:
    """Write the report of a run with at least one finished fold, as a single page without external files.

    Args:
        folder: run folder.
        out: HTML file to write.
        others: folders of runs of the same task with other `data.limit`, for a learning curve.

    Returns:
        Number of finished folds.

    Raises:
        UserError: no fold is finished, a file is malformed, or one of `others` is not comparable with the run.
    """
    results = _finished(folder)
    first, metric = results[0], results[0]["metric"]
    summary = summary_of(results, metric)
    split: Literal["test", "valid"] = summary["split"]
    figures = [_curves(folder, results, metric)]
    if others:
        runs = [results, *(_comparable(other, first) for other in others)]
        figures.append(_learning_curve(runs, split, metric))
    figures += _fold_figures(folder, results[:MAX_FOLDS_WITH_FIGURES])
    page = template("finetuning.html.jinja").render(
        name=folder.resolve().name,
        folder=folder,
        task=f"{printable(first['task'])} ({printable(first['suite'])})",
        model=", ".join([first["arm"], *([] if first["mode"] == "full" else [first["mode"]])]),
        now=format_time(time.time()),
        facts=_facts(results, summary),
        notes=first.get("notes", []),
        head=["fold", "best epoch", *(one.name for one in metrics_of(task_type_of(first)).values())],
        rows=_rows(results, summary, split),
        legend=INTERVALS[len(results) > 1].format(split=split),
        figures=figures,
        config=read_flat_config(folder / run_files.CONFIG),
    )
    with atomic_path(out) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
    return len(results)


def _finished(folder: Path) -> list[FoldRecord]:
    paths = sorted(folder.glob(run_files.FOLD_RESULTS))
    results = [result for path in paths if (result := read_result(path.parent)) is not None]
    if not results:
        raise UserError(f"{folder}: no finished fold to report; finish a fold, or choose another folder")
    if results[0]["metric"] not in metrics_of(task_type_of(results[0])) or any(
        one["metric"] != results[0]["metric"] for one in results
    ):
        raise UserError(f"{folder}: the folds have unknown or different metrics; {RESULT_HINT}")
    if len({stages_of(result) for result in results}) > 1:
        raise UserError(f"{folder}: the folds have different numbers of stages; {RESULT_HINT}")
    return sorted(results, key=lambda result: result["fold"])


def _comparable(folder: Path, first: FoldRecord) -> list[FoldRecord]:
    """Finished folds of a run of a learning curve.

    Raises:
        UserError: the run has other rows, another metric, or no finished fold.
    """
    results = _finished(folder)
    fields = {
        "data_fingerprint": "rows of the task",
        "metric": "evaluation.metric",
        "arm": "arm",
        "mode": "training.mode",
    }
    for key, what in fields.items():
        if results[0].get(key) != first.get(key):
            raise UserError(
                f"{folder}: another {what} than in the run of the report; a learning curve needs runs that differ "
                "in data.limit"
            )
    return results


def _facts(results: list[FoldRecord], summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    first, name, names = results[0], metric_name(summary["metric"]), names_of(results[0])
    rows, interval = first["rows"], summary["interval"]
    spread = f"± {interval:.4f} over folds" if interval is not None else f"{summary['split']} rows"
    facts = [
        (name, number(summary["mean"]), spread),
        ("folds", str(len(results)), f"of {first['folds']}"),
        ("rows", f"{rows['train']:,}", f"training; {rows['valid']:,} validation, {rows['test']:,} test"),
        (TARGETS[task_type_of(first)].names_key, str(len(names)), ", ".join(map(printable, names[:4]))),
    ]
    if (free := summary["leak_free"]) is not None:
        facts.insert(1, (f"leak-free {name}", number(free["mean"]), f"{free['rows']:,} test rows"))
    return facts


def _rows(results: list[FoldRecord], summary: dict[str, Any], split: Literal["test", "valid"]) -> list[list[str]]:
    rows, metrics = [], metrics_of(task_type_of(results[0]))
    for result in results:
        scores, limits = scores_of(result, split), result.get("intervals", {})
        cells = [f"{number(scores.get(name))}{_brackets(limits.get(name))}" for name in metrics]
        rows.append([str(result["fold"]), str(result["best_epoch"]), *cells])
    if len(results) > 1:
        means = [summary["metrics"][name] for name in metrics]
        cells = [number(one["mean"]) + (f" ± {one['interval']:.4f}" if one["interval"] else "") for one in means]
        rows.append(["mean", "", *cells])
    return rows


def _brackets(limits: Sequence[float | None] | None) -> str:
    return "" if limits is None else f" [{number(limits[0])}, {number(limits[1])}]"


def _curves(folder: Path, results: list[FoldRecord], metric: str) -> Drawn:
    """Loss and metric of each epoch of each fold."""

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(1, 2)
        for place, result in enumerate(results):
            fold, color = result["fold"], COLORS[place % len(COLORS)]
            path = folder / run_files.fold_name(fold) / run_files.METRICS
            lines = cast("list[dict[str, Any]]", [line for _, line in read_records(path, EpochLine, hint=CURVES_HINT)])
            epochs = [line["epoch"] for line in lines]
            for axes, key in zip(panels, ("loss", metric), strict=True):
                values = np.array([_value(line.get(key), path, key) for line in lines])
                axes.plot(epochs, values, color=color, marker="o", markersize=3, label=f"fold {fold}")
        labels = (f"validation {TARGETS[task_type_of(results[0])].loss_name}", f"validation {metric_name(metric)}")
        for axes, label in zip(panels, labels, strict=True):
            _style(axes, "epoch", label)
            axes.xaxis.get_major_locator().set_params(integer=True)
        legend_above(panels[0])

    note = "Validation loss and metric after each epoch; 0 is before training. Arms without epochs have one point."
    return _figure("Training", note, draw, wide=True)


def _value(value: Any, path: Path, key: str) -> float:
    """A number of metrics.jsonl; NaN where it is undefined."""
    if value is not None and not (isinstance(value, int | float) and abs(value) < MAX_VALUE):
        raise UserError(f"{path}: {key} is not a number; {CURVES_HINT}")
    return np.nan if value is None else float(value)


def _learning_curve(runs: list[list[FoldRecord]], split: Literal["test", "valid"], metric: str) -> Drawn:
    """Metric of each run against its number of training rows."""
    points = []
    for results in runs:
        summary = summary_of(results, metric)
        if summary["split"] != split:
            raise UserError(
                "learning curve: some runs have test rows, others do not; pass runs with the same data.test"
            )
        points.append((results[0]["rows"]["train"], summary["mean"], summary["interval"]))
    points.sort(key=lambda point: point[0])

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        rows, means, halves = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        axes.errorbar(rows, means, np.nan_to_num(halves), color=COLORS[0], marker="o", markersize=4, capsize=3)
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(rows)), labels=[short_number(value) for value in sorted(set(rows))])
        axes.minorticks_off()
        _style(axes, "training rows", f"{split} {metric_name(metric)}")

    note = f"Mean {split} {metric_name(metric)} of runs with different data.limit. Bars: 95% interval over folds."
    return _figure("Learning curve", note, draw)


def _fold_figures(folder: Path, results: list[FoldRecord]) -> list[Drawn]:
    found = []
    for result in results:
        for file, title in FIGURES.items():
            path = folder / run_files.fold_name(result["fold"]) / file
            if path.is_file():
                content = read_bytes(path, hint="delete it to write the report without it", max_bytes=MAX_FIGURE_BYTES)
                encoded = base64.b64encode(content).decode("ascii")
                title = f"Fold {result['fold']}: {title}"
                found.append(Drawn(title, "", encoded, kind="png"))
    return found


def _figure(title: str, note: str, draw: Callable[["Figure"], None], wide: bool = False) -> Drawn:
    with styled_figure(WIDE if wide else NARROW, 2.9) as figure:
        draw(figure)
        return Drawn(title, note, as_svg(figure), wide)


def _style(axes: Any, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
