"""Note in the report: which folds have an MCC of exactly 0, and why. The mean over folds hides such folds."""

from ldarnet.comparison.resampling import read_predictions
from ldarnet.comparison.results import Comparison, FoldScores

ONE_CLASS = "all test rows are predicted as one class"
CHANCE = "several classes are predicted, no better than chance"
UNKNOWN = "all test rows are predicted as one class, or no better than chance (unknown without predictions.tsv)"


def zero_mcc_note(comparison: Comparison) -> str:
    """List the arms, tasks and folds with an MCC of exactly 0, one paragraph per cause; empty if there are none."""
    found: dict[str, dict[str, list[str]]] = {}
    for result in comparison.results:
        by_cause: dict[str, list[str]] = {}
        for fold in result.folds:
            if fold.test.get("mcc") == 0:
                by_cause.setdefault(_cause(fold), []).append(str(fold.number))
        for cause, folds in by_cause.items():
            where = f"{result.task.name} (fold{'s' if len(folds) > 1 else ''} {', '.join(folds)})"
            found.setdefault(cause, {}).setdefault(result.arm, []).append(where)
    return "\n\n".join(f"**MCC is exactly 0**: {cause}. {_by_arm(arms)}." for cause, arms in found.items())


def _by_arm(arms: dict[str, list[str]]) -> str:
    return "; ".join(f"**{arm}** on {', '.join(tasks)}" for arm, tasks in arms.items())


def _cause(fold: FoldScores) -> str:
    predictions = read_predictions(fold)
    if predictions is None:
        return UNKNOWN
    return ONE_CLASS if (predictions.predicted == predictions.predicted[0]).all() else CHANCE
