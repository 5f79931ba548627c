"""Interface of a type of targets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from ldarnet.finetuning.evaluation import Outputs
from ldarnet.model.classifiers import LDARNetClassifier, LDARNetForSequenceClassification
from ldarnet.tasks.metrics import Metric, metrics_of, scores
from ldarnet.tasks.resampling import row_intervals


class Targets(ABC):
    """Targets of a task.

    Shapes: n rows; labels and predictions have n rows each, and the columns of their type.

    Args:
        names: class names, or names of the values; one output of the network each.
    """

    task_type: ClassVar[str]
    problem_type: ClassVar[str]
    """Value of `problem_type` in transformers."""
    undefined_for: ClassVar[str]
    """Rows for which some metrics are undefined."""
    loss_name: ClassVar[str] = "loss (nats)"
    """Title of the loss in figures."""
    names_key: ClassVar[str] = "classes"
    """Key of the names in result.json and data.json."""
    model_class: ClassVar[type[LDARNetClassifier]] = LDARNetForSequenceClassification
    per_base: ClassVar[bool] = False
    """Whether there is one output per base."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Metrics by configuration key."""
        return metrics_of(self.task_type)

    def fitted(self, labels: np.ndarray) -> Self:
        """Targets with the statistics of the training rows of a fold, such as the scale of values."""
        del labels
        return self

    @abstractmethod
    def strata(self, labels: np.ndarray) -> np.ndarray | None:
        """Stratum of each row, (n,), for stratified folds and samples; None if rows have no strata."""

    @abstractmethod
    def constant(self, labels: np.ndarray) -> tuple[str, str] | None:
        """What all labels have in common, if nothing can be learned from them or metrics are undefined, and a hint."""

    @abstractmethod
    def tensor(self, labels: np.ndarray) -> Any:
        """Labels for `batch`, one entry per row."""

    def cropped(self, labels: np.ndarray, max_length: int | None) -> np.ndarray:
        """Labels of sequences that are cropped to their central `max_length` bases."""
        del max_length
        return labels

    def batch(self, labels: Any, rows: np.ndarray, flipped: np.ndarray) -> Tensor:
        """Labels of the rows of a batch for `loss`, from labels from `tensor`.

        Args:
            labels: labels of all training rows.
            rows: indices of the rows.
            flipped: whether each training row is reverse-complemented in this epoch.
        """
        del flipped
        return labels[rows]

    def count(self, labels: Any, rows: np.ndarray) -> int:
        """Number of labels in rows, over which the loss is averaged."""
        del labels
        return len(rows)

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum of the training loss, from outputs (rows, len(names)) and labels from `batch`."""

    @abstractmethod
    def predictions(self, outputs: Outputs) -> np.ndarray:
        """Predictions (n, len(names)) float64, from the outputs of a network for one or both strands."""

    @abstractmethod
    def mean_loss(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """Mean loss per row."""

    def evaluate(self, outputs: Outputs, labels: np.ndarray) -> dict[str, Any]:
        """Compute the mean loss per row, every metric, and bases per chunk."""
        found = self.scores(labels, self.predictions(outputs))
        return {**found, "bases_per_chunk": outputs.bases_per_chunk}

    def scores(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float | None]:
        """Compute the mean loss per row and every metric."""
        loss = self.mean_loss(labels, predictions)
        return {"loss": loss, **scores(*self.metric_inputs(labels, predictions), self.task_type)}

    def metric_inputs(self, labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels and predictions as `Metric.score` takes them."""
        return labels, predictions

    def intervals(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, list[float] | None]:
        """95% bootstrap intervals over rows of the metrics that can be resampled."""
        return row_intervals(labels, predictions, self.task_type)

    def finite(self, predictions: np.ndarray) -> np.ndarray:
        """Whether all predictions of a row are finite, (n,)."""
        return np.asarray(np.isfinite(predictions).all(axis=1))

    def details(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        """Further entries of result.json for the reported rows."""
        del labels, predictions
        return {}

    def finish(self, network: nn.Module) -> None:
        """Change a trained network in place, so that its outputs are in the units of the labels."""
        del network

    @abstractmethod
    def nothing_learned(self, predictions: np.ndarray, best: dict[str, Any]) -> str | None:
        """Describe predictions that are no better than a constant; None if they are better.

        Args:
            predictions: predictions for the reported rows.
            best: line of metrics.jsonl for the best epoch.
        """

    @abstractmethod
    def draw(self, labels: np.ndarray, predictions: np.ndarray, title: str, folder: Path) -> str | None:
        """Write the figures of a fold; return why one is missing, or None."""

    @abstractmethod
    def label_columns(self) -> list[str]:
        """Titles of the columns with labels in tables of predictions."""

    @abstractmethod
    def label_cells(self, label: Any) -> list[str]:
        """Cells of the label of one row."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Titles of the columns with predictions."""

    @abstractmethod
    def cells(self, prediction: np.ndarray) -> list[str]:
        """Cells of the prediction of one row, (len(names),)."""

    @abstractmethod
    def describe(self, labels: np.ndarray) -> str:
        """Summarize the labels in one line for the console."""
