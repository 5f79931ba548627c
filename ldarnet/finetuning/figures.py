"""Figures of a fold: confusion matrix and ROC curves of classes, scatter plots of values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from ldarnet.interpret.figures import FAINT, INK, MUTED, STAGE_COLORS, png_figure
from ldarnet.printable import figure_label
from ldarnet.tasks.regression_metrics import pearson

MAX_NAMED = 30
"""Maximum number of classes labeled in a figure."""
MAX_PANELS = 12
"""Maximum number of targets in a figure."""
MAX_DOTS = 5000
"""Maximum number of rows in a panel; of more rows, evenly spaced ones are drawn."""
PANELS_PER_ROW = 3


def draw_confusion(labels: np.ndarray, predicted: np.ndarray, classes: list[str], title: str, out: Path) -> None:
    """Draw the confusion matrix.

    The color of a cell shows its count divided by the number of rows of its true class. With at most `MAX_NAMED`
    classes, the cell also contains both the count and this fraction.

    Args:
        labels: (n,) int64 true classes.
        predicted: (n,) int64 predicted classes.
        classes: class names, by label.
        title: figure title.
        out: PNG file to write.
    """
    counts = confusion_matrix(labels, predicted, labels=range(len(classes)))
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    named = len(classes) <= MAX_NAMED
    size = 2.2 + 0.8 * len(classes) if named else 8.0
    with png_figure(out, size + 0.6, size) as figure:
        axes = figure.subplots()
        axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts if named else counts[:0]):
            color = "white" if fractions[row, column] > 0.6 else INK
            text = f"{count:,}\n{fractions[row, column]:.0%}"
            axes.text(column, row, text, ha="center", va="center", color=color)
        if named:
            axes.set_xticks(range(len(classes)), list(map(figure_label, classes)))
            axes.set_yticks(range(len(classes)), list(map(figure_label, classes)))
        axes.set_xlabel("predicted")
        axes.set_ylabel("label")
        axes.set_title(title)


def draw_roc(labels: np.ndarray, probabilities: np.ndarray, classes: list[str], title: str, out: Path) -> bool:
    """Draw ROC curves.

    With two classes, there is one curve, for class 1. With more classes, there is one one-vs-rest curve for each of the
    first `MAX_NAMED` classes that have rows.

    Args:
        labels: (n,) int64 true classes.
        probabilities: (n, classes) predicted probabilities.
        classes: class names, by label.
        title: figure title.
        out: PNG file to write.

    Returns:
        Whether the file was written. It is not written if all rows have the same class, since no curve is defined then.
    """

    def curve(right: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        x, y, _ = roc_curve(right, score)
        return x, y, f"AUROC {roc_auc_score(right, score):.3f}"

    def decorate(axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (5, 3)), linewidth=1.0, label="random")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")

    return _draw_curves(labels, probabilities, classes, title, out, curve, decorate, "lower right")


def draw_precision_recall(
    labels: np.ndarray, probabilities: np.ndarray, classes: list[str], title: str, out: Path
) -> bool:
    """Draw precision against recall, which shows rare classes better than ROC curves; arguments as in `draw_roc`."""

    def curve(right: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        precision, recall, _ = precision_recall_curve(right, score, drop_intermediate=True)  # pyrefly: ignore
        share = f"AUPRC {average_precision_score(right, score):.3f}, random {right.mean():.2g}"
        return recall, precision, share

    def decorate(axes: Any) -> None:
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_ylim(-0.02, 1.02)

    return _draw_curves(labels, probabilities, classes, title, out, curve, decorate, "lower left")


def _draw_curves(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: list[str],
    title: str,
    out: Path,
    curve: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, str]],
    decorate: Callable[[Any], None],
    legend: Literal["lower left", "lower right"],
) -> bool:
    """Draw a curve for each class; `curve` takes the rows of the class (bool) and their scores."""
    numbers = [1] if len(classes) == 2 else range(len(classes))
    shown = [number for number in numbers if 0 < (labels == number).sum() < len(labels)][:MAX_NAMED]
    if not shown:
        return False
    with png_figure(out, 4.6, 4.4) as figure:
        axes = figure.subplots()
        decorate(axes)
        for number in shown:
            x, y, text = curve(labels == number, probabilities[:, number])
            color = STAGE_COLORS[number % len(STAGE_COLORS)]
            axes.plot(x, y, color=color, linewidth=1.6, label=f"{figure_label(classes[number])}, {text}")
        axes.set_title(title)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_aspect("equal")
        axes.legend(loc=legend)
    return True


def draw_scatter(labels: np.ndarray, predictions: np.ndarray, targets: list[str], title: str, out: Path) -> None:
    """Draw predictions against labels, one panel for each of the first `MAX_PANELS` targets.

    Args:
        labels: (n, targets); rows without a label (NaN) are left out.
        predictions: (n, targets).
        targets: names of the targets.
        title: figure title.
        out: PNG file to write.
    """
    names = targets[:MAX_PANELS]
    columns = min(len(names), PANELS_PER_ROW)
    rows = -(-len(names) // columns)
    with png_figure(out, 4.2 * columns + 0.4, 4.0 * rows + 0.4) as figure:
        figure.suptitle(title)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, name, every_x, every_y in zip(panels, names, labels.T, predictions.T, strict=False):
            known = np.flatnonzero(~np.isnan(every_x))
            if not len(known):
                axes.set_title(f"{figure_label(name)}, no labels")
                continue
            shown = np.unique(np.linspace(0, len(known) - 1, min(len(known), MAX_DOTS)).astype(int))
            x, y = every_x[known], every_y[known]
            low, high = min(x.min(), y.min()), max(x.max(), y.max())
            axes.plot([low, high], [low, high], color=MUTED, linestyle=(0, (5, 3)), linewidth=1.0)
            axes.scatter(x[shown], y[shown], s=8, color=STAGE_COLORS[0], alpha=0.4, linewidths=0)
            value = pearson(x[:, None], y[:, None])
            axes.set_title(figure_label(name) + ("" if value is None else f", Pearson r {value:.3f}"))
            axes.set_xlabel("label")
            axes.set_ylabel("predicted")
            axes.grid(color=FAINT, linewidth=0.6)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
