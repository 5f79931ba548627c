"""Columns of prediction tables, shared by fine-tuning and `ldarnet predict`."""

import numpy as np


def columns(classes: list[str]) -> list[str]:
    """Column names: `predicted` (the most probable class), then `p_<class>` (its probability) for each class."""
    return ["predicted", *(f"p_{name}" for name in classes)]


def cells(classes: list[str], probabilities: np.ndarray) -> list[str]:
    """Cells of one row: the predicted class, and the probability of each class; `probabilities` is (classes,)."""
    return [classes[int(probabilities.argmax())], *(f"{probability:.6g}" for probability in probabilities)]
