"""One or several numbers per sequence. With several, some may be missing: they are neither learned nor scored.

Networks learn standardized values: each target minus its mean, divided by its standard deviation, over the training
rows of the fold. The learning rate therefore does not depend on the units of the labels. `finish` moves the scale into
the head.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ldarnet.finetuning.evaluation import Outputs
from ldarnet.finetuning.targets.base import Targets
from ldarnet.io import run_files
from ldarnet.model.classifiers import REGRESSION as REGRESSION_PROBLEM
from ldarnet.tasks.metrics import REGRESSION, scores

MISSING_VALUE = "NA"
"""Missing label in tables of predictions."""


class ValueTargets(Targets):
    """Values (n, T) float64, NaN where missing. Predictions are values.

    The loss is the mean squared error of standardized values: 1 is the loss of predicting the mean of the training
    rows, if validation rows have the same variance.

    Attributes:
        mean: (T,) subtracted from the labels.
        scale: (T,) by which they are then divided.
    """

    task_type = REGRESSION
    problem_type = REGRESSION_PROBLEM
    undefined_for = "rows with equal labels"
    loss_name = "loss (standardized MSE)"
    names_key = "targets"

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self.mean, self.scale = np.zeros(len(names)), np.ones(len(names))

    def fitted(self, labels: np.ndarray) -> Self:
        """Targets with the mean and standard deviation of training rows."""
        found = type(self)(self.names)
        found.mean, scale = np.nanmean(labels, axis=0), np.nanstd(labels, axis=0)
        found.scale = np.where(scale > 0, scale, 1.0)
        return found

    def standardized(self, labels: np.ndarray) -> np.ndarray:
        """Labels as the network learns them, (n, T) float64."""
        return (labels - self.mean) / self.scale

    def strata(self, labels: np.ndarray) -> None:
        """None: values have no strata."""

    def constant(self, labels: np.ndarray) -> tuple[str, str] | None:
        """The target whose values are all equal, if there is one."""
        for name, values in zip(self.names, labels.T, strict=True):
            known, hint = values[~np.isnan(values)], "use fewer folds, provide more values, or remove the label column"
            if not len(known):
                return f"without values of {name!r}", hint
            if np.ptp(known) == 0:
                return f"that all have {name!r} equal to {known[0]:g}", hint
        return None

    def tensor(self, labels: np.ndarray) -> Tensor:
        """Standardized labels, float32."""
        return torch.from_numpy(self.standardized(labels).astype(np.float32))

    def count(self, labels: Tensor, rows: np.ndarray) -> int:
        """Number of values that are not missing."""
        return int(labels[rows].isfinite().sum())

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum of the squared errors of the values that are not missing."""
        return torch.where(labels.isnan(), 0.0, outputs - labels.nan_to_num()).square().sum()

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """Values in the units of the labels, averaged over strands."""
        return outputs.values.astype(np.float64).mean(axis=0) * self.scale + self.mean

    def mean_loss(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """Mean squared error of standardized values, over rows and targets."""
        return float(np.nanmean(np.square((labels - predictions) / self.scale)))

    def details(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        """`by_target`: the metrics of each target, if there are several."""
        if len(self.names) == 1:
            return {}
        columns = ((labels[:, [column]], predictions[:, [column]]) for column in range(len(self.names)))
        return {"by_target": {name: scores(*pair, REGRESSION) for name, pair in zip(self.names, columns, strict=True)}}

    def finish(self, network: nn.Module) -> None:
        """Scale the head of the network in place, so that it predicts values in the units of the labels."""
        head: Any = network.get_submodule("classifier" if hasattr(network, "classifier") else "head")
        mean, scale = (torch.from_numpy(one).to(head.weight) for one in (self.mean, self.scale))
        with torch.no_grad():
            head.weight.mul_(scale[:, None])
            head.bias.mul_(scale).add_(mean)

    def nothing_learned(self, predictions: np.ndarray, best: dict[str, Any]) -> str | None:
        """Describe predictions that do not correlate with the labels."""
        pearson = best.get("pearson")
        if len(predictions) > 1 and (np.ptp(predictions, axis=0) == 0).all():
            return "every row has the same prediction: nothing was learned"
        if pearson is not None and pearson <= 0:
            return f"validation Pearson r of the best epoch is {pearson:.4f}: nothing was learned"
        return None

    def draw(self, labels: np.ndarray, predictions: np.ndarray, title: str, folder: Path) -> str | None:
        """Draw predictions against labels, one panel per target."""
        from ldarnet.finetuning.figures import draw_scatter

        draw_scatter(labels, predictions, self.names, title, folder / run_files.SCATTER_FIGURE)
        return None

    def label_columns(self) -> list[str]:
        """`label`, or `label_<target>` for several targets."""
        return ["label"] if len(self.names) == 1 else [f"label_{name}" for name in self.names]

    def label_cells(self, label: Any) -> list[str]:
        """The values as in the file, up to formatting; `NA` where one is missing."""
        return [MISSING_VALUE if np.isnan(value) else repr(float(value)) for value in label]

    def columns(self) -> list[str]:
        """`predicted`, or `predicted_<target>` for several targets."""
        return ["predicted"] if len(self.names) == 1 else [f"predicted_{name}" for name in self.names]

    def cells(self, prediction: np.ndarray) -> list[str]:
        """The predicted values."""
        return [f"{value:.8g}" for value in prediction]

    def describe(self, labels: np.ndarray) -> str:
        """Mean and standard deviation of each target, and the number of its missing values."""
        parts = []
        for name, values in zip(self.names, labels.T, strict=True):
            absent = int(np.isnan(values).sum())
            note = f", {absent:,} missing" if absent else ""
            parts.append(f"{name} {np.nanmean(values):.4g} (SD {np.nanstd(values):.4g}{note})")
        return f"targets  {', '.join(parts)}"
