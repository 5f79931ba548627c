"""One class per sequence."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.finetuning.evaluation import Outputs
from ldarnet.finetuning.targets.base import Targets
from ldarnet.io import run_files
from ldarnet.model.classifiers import SINGLE_LABEL
from ldarnet.tasks.metrics import CLASSIFICATION


class ClassTargets(Targets):
    """Class indices (n,) int64. Predictions are class probabilities (n, C); the loss is cross-entropy in nats."""

    task_type = CLASSIFICATION
    problem_type = SINGLE_LABEL
    undefined_for = "rows of a single class"

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Class indices."""
        return labels

    def constant(self, labels: np.ndarray) -> tuple[str, str] | None:
        """The only class of the rows, if there is only one."""
        if len(np.unique(labels)) > 1:
            return None
        hint = "set folds.stratified=true, use fewer folds, or provide rows of every class"
        return f"of the single class {self.names[labels[0]]!r}", hint

    def tensor(self, labels: np.ndarray) -> Tensor:
        """Class indices as they are."""
        return torch.from_numpy(labels)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross-entropy of class logits."""
        return F.cross_entropy(outputs, labels, reduction="sum")

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """Class probabilities, averaged over strands."""
        return np.exp(outputs.log_probabilities)

    def mean_loss(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """Mean cross-entropy."""
        likelihood = predictions[np.arange(len(labels)), labels]
        return -float(np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())

    def evaluate(self, outputs: Outputs, labels: np.ndarray) -> dict[str, Any]:
        """Compute the metrics; the loss comes from log probabilities, which do not underflow."""
        return outputs.metrics(labels)

    def nothing_learned(self, predictions: np.ndarray, best: dict[str, Any]) -> str | None:
        """Describe predictions that are no better than predicting one class for all rows."""
        mcc, auroc = best.get("mcc"), best.get("auroc")
        predicted = np.unique(predictions.argmax(1))
        if len(predicted) == 1 and len(predictions) > 1:
            found = f"every row is predicted as {self.names[predicted[0]]!r}"
        elif mcc is not None and mcc <= 0:
            found = f"validation MCC of the best epoch is {mcc:.4f}, no better than predicting one class"
        else:
            return None
        if auroc is None or auroc <= 0.5:
            return f"{found}: nothing was learned"
        return f"{found}, though validation AUROC is {auroc:.2f} (0.5: random ranking)"

    def draw(self, labels: np.ndarray, predictions: np.ndarray, title: str, folder: Path) -> str | None:
        """Draw the confusion matrix and the ROC curves."""
        from ldarnet.finetuning.figures import draw_confusion, draw_roc

        draw_confusion(labels, predictions.argmax(1), self.names, title, folder / run_files.CONFUSION_FIGURE)
        drawn = draw_roc(labels, predictions, self.names, title, folder / run_files.ROC_FIGURE)
        return None if drawn else "no ROC curve, because the {split} rows have a single class"

    def label_columns(self) -> list[str]:
        """A column with class names."""
        return ["label"]

    def label_cells(self, label: Any) -> list[str]:
        """The class name."""
        return [self.names[label]]

    def columns(self) -> list[str]:
        """`predicted` (the most probable class), then `p_<class>` (its probability) for each class."""
        return ["predicted", *(f"p_{name}" for name in self.names)]

    def cells(self, prediction: np.ndarray) -> list[str]:
        """The predicted class, and the probability of each class."""
        return [self.names[int(prediction.argmax())], *(f"{probability:.6g}" for probability in prediction)]

    def describe(self, labels: np.ndarray) -> str:
        """Share of each class."""
        fractions = np.bincount(labels, minlength=len(self.names)) / len(labels)
        shares = ", ".join(f"{name} {fraction:.0%}" for name, fraction in zip(self.names, fractions, strict=True))
        return f"classes  {shares}"
