"""One class per base, such as splice sites or reading frames.

Shapes: n rows, L bases of a row, C classes; B rows of a batch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.alphabet import IGNORE_INDEX
from ldarnet.finetuning.batches import cropped
from ldarnet.finetuning.evaluation import Outputs
from ldarnet.finetuning.targets.base import Targets
from ldarnet.io import run_files
from ldarnet.model.classifiers import SINGLE_LABEL, LDARNetForTokenClassification
from ldarnet.tasks.base_labels import UNLABELED, UNLABELED_CHARACTER
from ldarnet.tasks.metrics import BASES, TOLERANCE, class_scores
from ldarnet.tasks.resampling import row_intervals


class BaseTargets(Targets):
    """Class indices of bases: (n,) objects, bytes (L,) each. Predictions are (n,) objects, probabilities (L, C) each.

    The loss is the cross-entropy in nats per labeled base. Bases without a label are neither learned nor scored.
    """

    task_type = BASES
    problem_type = SINGLE_LABEL
    undefined_for = "bases of a single class"
    model_class = LDARNetForTokenClassification
    per_base = True

    def strata(self, labels: np.ndarray) -> None:
        """None: rows have no classes, only their bases."""

    def constant(self, labels: np.ndarray) -> tuple[str, str] | None:
        """The only class of the labeled bases, if there is only one."""
        flat = _flat(labels)
        found = np.unique(flat[flat != UNLABELED])
        if len(found) > 1:
            return None
        what = f"whose bases are all of the class {self.names[found[0]]!r}" if len(found) else "without labeled bases"
        return what, "use fewer folds, or provide rows with bases of every class"

    def cropped(self, labels: np.ndarray, max_length: int | None) -> np.ndarray:
        """Labels of the central bases."""
        found = np.empty(len(labels), dtype=object)
        found[:] = [cropped(label, max_length) for label in labels]
        return found

    def tensor(self, labels: np.ndarray) -> list[np.ndarray]:
        """Class indices of each row, int64, `IGNORE_INDEX` where there is no label."""
        rows = [np.frombuffer(label, np.uint8).astype(np.int64) for label in labels]
        return [np.where(row == UNLABELED, IGNORE_INDEX, row) for row in rows]

    def batch(self, labels: Any, rows: np.ndarray, flipped: np.ndarray) -> Tensor:
        """Class indices (B, L), padded with `IGNORE_INDEX`; reversed for rows that are reverse-complemented."""
        chosen = [labels[row][::-1] if flipped[row] else labels[row] for row in rows]
        found = np.full((len(chosen), max(map(len, chosen))), IGNORE_INDEX, dtype=np.int64)
        for number, row in enumerate(chosen):
            found[number, : len(row)] = row
        return torch.from_numpy(found)

    def count(self, labels: Any, rows: np.ndarray) -> int:
        """Number of labeled bases."""
        return sum(int((labels[row] != IGNORE_INDEX).sum()) for row in rows)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum over labeled bases of the cross-entropy of class logits (B, L, C)."""
        return F.cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")

    def predictions(self, outputs: Outputs) -> np.ndarray:
        """Class probabilities of the bases of each row, averaged over strands."""
        assert outputs.lengths is not None
        found = np.empty(len(outputs.lengths), dtype=object)
        for row, part in enumerate(np.split(np.exp(outputs.log_probabilities), np.cumsum(outputs.lengths)[:-1])):
            found[row] = part
        return found

    def mean_loss(self, labels: np.ndarray, predictions: np.ndarray) -> float:
        """Mean cross-entropy per labeled base."""
        flat, probabilities = _labeled(labels, predictions)
        likelihood = probabilities[np.arange(len(flat)), flat]
        return -float(np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())

    def scores(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, float | None]:
        """Compute the mean loss per labeled base and every metric over labeled bases."""
        if not len(_labeled(labels, predictions)[0]):
            return dict.fromkeys(("loss", *self.metrics))
        return super().scores(labels, predictions)

    def metric_inputs(self, labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class indices and probabilities of the labeled bases of all rows."""
        return _labeled(labels, predictions)

    def intervals(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, list[float] | None]:
        """95% intervals of the metrics that depend only on predicted classes; rows are resampled, not bases."""
        rows = np.repeat(np.arange(len(labels)), list(map(len, labels)))[_flat(labels) != UNLABELED]
        return row_intervals(*_labeled(labels, predictions), BASES, rows) if len(rows) else {}

    def finite(self, predictions: np.ndarray) -> np.ndarray:
        """Whether all predictions of a row are finite, (n,)."""
        return np.array([np.isfinite(one).all() for one in predictions], dtype=bool)

    def details(self, labels: np.ndarray, predictions: np.ndarray) -> dict[str, Any]:
        """`by_class`: number of labeled bases, precision, recall, F1 and AUPRC of each class, one against the rest."""
        flat, probabilities = _labeled(labels, predictions)
        return {"by_class": {name: class_scores(flat, probabilities, label) for label, name in enumerate(self.names)}}

    def nothing_learned(self, predictions: np.ndarray, best: dict[str, Any]) -> str | None:
        """Describe predictions that are no better than one class for all bases."""
        mcc, auroc = best.get("mcc"), best.get("macro_auroc")
        predicted = np.unique(np.concatenate([one.argmax(1) for one in predictions]))
        if len(predicted) == 1:
            found = f"every base is predicted as {self.names[predicted[0]]!r}"
        elif mcc is not None and mcc <= TOLERANCE:
            found = f"validation MCC of the best epoch is {mcc:.4f}, no better than predicting one class"
        else:
            return None
        if auroc is None or auroc <= 0.5:
            return f"{found}: nothing was learned"
        return (
            f"{found}, though validation AUROC (macro) is {auroc:.2f} (0.5: random ranking); for rare classes, select "
            "the epoch with evaluation.metric=macro_auprc"
        )

    def draw(self, labels: np.ndarray, predictions: np.ndarray, title: str, folder: Path) -> str | None:
        """Draw the confusion matrix, ROC curves, and precision against recall of labeled bases."""
        from ldarnet.finetuning.figures import draw_confusion, draw_precision_recall, draw_roc

        flat, probabilities = _labeled(labels, predictions)
        draw_confusion(flat, probabilities.argmax(1), self.names, title, folder / run_files.CONFUSION_FIGURE)
        drawn = draw_roc(flat, probabilities, self.names, title, folder / run_files.ROC_FIGURE)
        draw_precision_recall(flat, probabilities, self.names, title, folder / run_files.PRECISION_RECALL_FIGURE)
        return None if drawn else "no ROC curve, because the labeled bases of the {split} rows have a single class"

    def label_columns(self) -> list[str]:
        """A column with one character per base."""
        return ["label"]

    def label_cells(self, label: Any) -> list[str]:
        """The label as in the file."""
        return [self._joined(label)]

    def columns(self) -> list[str]:
        """`predicted`, then `p_<class>` for each class."""
        return ["predicted", *(f"p_{name}" for name in self.names)]

    def cells(self, prediction: np.ndarray) -> list[str]:
        """The most probable class of each base, and the probability of each class, comma-separated."""
        return [
            self._joined(prediction.argmax(1)),
            *(",".join(f"{value:.4g}" for value in column) for column in prediction.T),
        ]

    def _joined(self, labels: Any) -> str:
        """Classes of bases, one character each; separated by commas if names have several characters."""
        names = (UNLABELED_CHARACTER if label == UNLABELED else self.names[label] for label in labels)
        return ("" if self._one_character else ",").join(names)

    @property
    def _one_character(self) -> bool:
        return all(len(name) == 1 for name in self.names)

    def parsed(self, cell: str) -> list[int]:
        """Class indices of a cell of the columns `label` or `predicted`; `UNLABELED` for bases without a label.

        Raises:
            KeyError: a class is unknown.
        """
        label_of = {UNLABELED_CHARACTER: UNLABELED} | {name: label for label, name in enumerate(self.names)}
        return [label_of[name] for name in (cell if self._one_character else cell.split(","))]

    def describe(self, labels: np.ndarray) -> str:
        """Share of each class of the labeled bases."""
        flat = _flat(labels)
        counts = np.bincount(flat[flat != UNLABELED], minlength=len(self.names))
        shares = (f"{name} {count / counts.sum():.2%}" for name, count in zip(self.names, counts, strict=True))
        return f"bases    {', '.join(shares)} of {counts.sum():,} labeled bases"


def _flat(labels: np.ndarray) -> np.ndarray:
    """Class indices of the bases of all rows, int64."""
    return np.frombuffer(b"".join(labels), np.uint8).astype(np.int64)


def _labeled(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = _flat(labels)
    known = flat != UNLABELED
    return flat[known], np.concatenate(list(predictions))[known]
