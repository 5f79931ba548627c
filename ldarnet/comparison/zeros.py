"""The note of a comparison on folds whose MCC is exactly 0, which a mean alone does not show."""

from ldarnet.comparison.resampling import read_predictions
from ldarnet.comparison.results import Comparison, FoldScores

ONE_CLASS = "every test row is given one and the same class"
CHANCE = "more than one class is given, no better than by chance"
UNKNOWN = "one class is given to every test row, or classes no better than by chance (predictions.tsv would tell)"


def zeros(comparison: Comparison) -> str:
    """Which arms have an MCC of exactly 0 on which tasks in which folds, and what their predictions say of it.

    Returns:
        A paragraph for each thing they say; nothing where there is no such fold.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for result in comparison.results:
        of_task: dict[str, list[str]] = {}
        for fold in result.folds:
            if fold.test.get("mcc") == 0:
                of_task.setdefault(_reason(fold), []).append(str(fold.number))
        for reason, folds in of_task.items():
            numbers = f"{result.task.name} (fold {', '.join(folds)})"
            found.setdefault(reason, {}).setdefault(result.arm, []).append(numbers)
    return "\n\n".join(f"**MCC is exactly 0**: {reason}. {_places(by_arm)}." for reason, by_arm in found.items())


def _places(by_arm: dict[str, list[str]]) -> str:
    return "; ".join(f"**{arm}** on {', '.join(tasks)}" for arm, tasks in by_arm.items())


def _reason(fold: FoldScores) -> str:
    predictions = read_predictions(fold.file.parent, fold.content["classes"])
    if predictions is None:
        return UNKNOWN
    _, _, predicted_N = predictions
    return ONE_CLASS if (predicted_N == predicted_N[0]).all() else CHANCE
