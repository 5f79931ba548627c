"""Results of a sweep: sweep.json, a text summary, and the comparison with published results."""

from pathlib import Path
from typing import Any

from ldarnet.comparison.compare import write_comparison
from ldarnet.config.sweep import SweepConfig
from ldarnet.finetuning.results import read_outcome
from ldarnet.io import run_files
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting
from ldarnet.tasks.metrics import find_metric, metric_name


def sweep_json(config: SweepConfig, plan: SweepPlan, folders: Folders, metric: str) -> dict[str, Any]:
    """Content of sweep.json: search space, validation scores of all settings, and chosen settings. No test scores."""
    return {
        "metric": metric,
        "space": config.model_dump(mode="json")["space"],
        "search": config.model_dump(mode="json")["search"],
        "tasks": {name: _task(task, folders, metric) for name, task in plan.tasks.items()},
    }


def compare(plan: SweepPlan, folders: Folders) -> Path | None:
    """Compare the chosen settings with published results.

    Returns:
        The path of the report; None if there are no test results.

    Raises:
        UserError: a result is damaged, or results of a task come from different data.
    """
    paths = [path for task in plan.tasks.values() for path in chosen_results(task, folders)]
    tested = [path for path in paths if (result := read_outcome(path.parent)) is not None and result.get("test")]
    if not tested:
        return None
    write_comparison({folders.root.name: tested}, folders.root / run_files.COMPARISON)
    return folders.root / run_files.COMPARISON / run_files.COMPARISON_REPORT


def chosen_results(task: TaskPlan, folders: Folders) -> list[Path]:
    """Paths of the result.json files of the chosen setting, in fold order; folds without a result are skipped."""
    if (chosen := task.chosen) is None:
        return []
    paths = [folders.result(task.task, chosen.name, fold) for fold in task.folds]
    return [path for path in paths if path.is_file()]


def chosen_means(plan: SweepPlan, metric: str) -> dict[str, float]:
    """Mean validation metric of the chosen setting of each task. The keys are names of MLflow metrics."""
    means = {task.task: task.ranking()[0][1] for task in plan.tasks.values() if task.chosen is not None}
    return {f"{task}/valid/{metric}": mean for task, mean in means.items()}


def describe_search(config: SweepConfig) -> str:
    """Describe the search in one line."""
    keys = ", ".join(config.space)
    if not keys:
        return "a single setting"
    if config.search.kind == "grid":
        return f"grid over {keys}"
    return f"Optuna (TPE) over {keys}, {config.search.trials} settings per task"


def summary(config: SweepConfig, plan: SweepPlan, folders: Folders, metric: str) -> str:
    """Write a text summary: the search, and for each task the chosen setting, the classifier and the failed folds."""
    lines = [f"search: {describe_search(config)}; compared by validation {metric_name(metric)}", ""]
    for task in plan.tasks.values():
        lines.append(f"{task.task}: {_choice(task, metric)}")
        if task.chosen is not None and (best := folders.classifier(task)) is not None:
            model = folders.of_setting(task.task, task.chosen.name) / best / run_files.EXPORT
            lines.append(f"  classifier: ldarnet predict {model} my.fa --out predictions.tsv")
        for setting, fold, status in task.all_folds():
            if status.state == "failed" and not task.error:
                log = folders.of_fold(task.task, setting.name, fold) / run_files.TRIAL_LOG
                lines.append(f"  failed: {setting.name} fold {fold}: {status.reason}; see {log}")
    lines += ["", f"all settings and folds: {folders.root / run_files.SWEEP_REPORT}"]
    return "\n".join(lines) + "\n"


def _task(task: TaskPlan, folders: Folders, metric: str) -> dict[str, Any]:
    chosen = task.chosen
    return {
        "chosen": None if chosen is None else {"setting": chosen.name, "values": chosen.values},
        "why": _choice(task, metric),
        "search_folds": task.search_folds,
        "settings": {setting.name: _setting(task, setting) for setting in task.settings},
        "classifier": folders.classifier(task),
        "results": [str(path.relative_to(folders.root)) for path in chosen_results(task, folders)],
    }


def _setting(task: TaskPlan, setting: Setting) -> dict[str, Any]:
    statuses = {fold: task.fold(setting, fold) for fold in task.folds}
    return {
        "values": setting.values,
        "validation": {str(fold): status.score for fold, status in statuses.items() if status.state == "finished"},
        "mean": task.mean(setting),
        "stopped": {
            str(fold): max(status.epochs, default=0) for fold, status in statuses.items() if status.state == "stopped"
        },
        "failed": {str(fold): status.reason for fold, status in statuses.items() if status.state == "failed"},
    }


def _choice(task: TaskPlan, metric: str) -> str:
    """Describe the chosen setting and its score, or why no setting is chosen."""
    if task.error:
        return f"aborted: {task.error}"
    ranking, settings = task.ranking(), len(task.settings)
    if task.chosen is None:
        search_ended = all(task.search_ended(setting) for setting in task.settings)
        return "no setting finished all search folds" if search_ended and settings else "search not finished"
    best, mean = ranking[0]
    folds = f"{len(task.search_folds)} fold{'s' if len(task.search_folds) > 1 else ''}"
    text = f"{best.name}, mean validation {metric_name(metric)} {mean:.4f} over {folds}"
    text += f", best of {len(ranking)}" if settings > 1 else ""
    text += f"; runner-up {ranking[1][0].name} with {ranking[1][1]:.4f}" if len(ranking) > 1 else ""
    at_chance = 0
    if (known := find_metric(metric)) is not None and known.minimum < 0:
        at_chance = sum((status.score or 0) <= 0 for status in _search_folds(task, best))
    text += f"; no better than chance on {at_chance} of {len(task.search_folds)} folds" if at_chance else ""
    states = [{status.state for status in _search_folds(task, setting)} for setting in task.settings]
    stopped, failed = (sum(state in of_setting for of_setting in states) for state in ("stopped", "failed"))
    text += f"; settings stopped early: {stopped}" if stopped else ""
    text += f"; settings failed: {failed}" if failed else ""
    unfinished = sum(task.fold(best, fold).state != "finished" for fold in task.folds)
    return text + (f"; folds not finished: {unfinished}" if unfinished else "")


def _search_folds(task: TaskPlan, setting: Setting) -> list[Any]:
    return [task.fold(setting, fold) for fold in task.search_folds]
