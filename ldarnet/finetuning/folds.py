"""Cross-validation folds and subsets of the training rows."""

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from ldarnet.config.finetune import FoldsSection
from ldarnet.console import format_count
from ldarnet.errors import UserError


def split(labels: np.ndarray, classes: list[str], config: FoldsSection) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split rows into training and validation rows for each fold; return ascending row indices.

    The defaults give the published folds: scikit-learn's KFold over the official training rows, shuffled with seed 42.

    Args:
        labels: (n,) labels of the training rows.
        classes: class names, by label.
        config: number, seed and stratification of the folds.

    Raises:
        UserError: too few rows, or too few rows of a class for stratified folds.
    """
    rows = len(labels)
    if rows < 2 * config.count:
        raise UserError(
            f"{rows} training rows are too few for folds.count={config.count}: some validation sets would have fewer "
            "than two rows; use fewer folds or more data"
        )
    if not config.stratified:
        return list(KFold(config.count, shuffle=True, random_state=config.seed).split(np.empty(rows)))
    rarest = min(np.unique(labels), key=lambda label: np.sum(labels == label))
    if (least := int(np.sum(labels == rarest))) < config.count:
        raise UserError(
            f"folds.stratified=true: the class {classes[rarest]!r} has {format_count(least, 'training row')}, fewer "
            f"than folds.count={config.count}; fix or remove mislabeled rows, use fewer folds, or set "
            "folds.stratified=false"
        )
    return list(StratifiedKFold(config.count, shuffle=True, random_state=config.seed).split(np.empty(rows), labels))


def subset(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Draw a stratified sample of `limit` rows with at least one row per class; return ascending row indices.

    Raises:
        UserError: `limit` is smaller than the number of classes.
    """
    if limit >= len(labels):
        return np.arange(len(labels))
    classes, rows = np.unique(labels, return_counts=True)
    if limit < len(classes):
        raise UserError(f"data.limit={limit} is smaller than the number of classes, {len(classes)}; raise data.limit")
    share = rows * (limit / len(labels))
    taken = np.maximum(1, share.astype(np.int64))
    while taken.sum() < limit:
        taken[np.argmax(share - taken)] += 1
    while taken.sum() > limit:
        taken[np.argmax(np.where(taken > 1, taken - share, -np.inf))] -= 1
    rng = np.random.default_rng(seed)
    parts = [
        rng.choice(np.flatnonzero(labels == label), number, replace=False)
        for label, number in zip(classes, taken, strict=True)
    ]
    return np.sort(np.concatenate(parts))
