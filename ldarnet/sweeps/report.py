"""What a sweep leaves: sweep.json with all that was searched and what was chosen by it, and a summary in words."""

from pathlib import Path
from typing import Any

from ldarnet.comparison.compare import write_comparison
from ldarnet.config.sweep import SweepConfig
from ldarnet.finetuning.results import read_result
from ldarnet.io import run_files
from ldarnet.sweeps.folders import Folders
from ldarnet.sweeps.plan import SweepPlan, TaskPlan
from ldarnet.sweeps.settings import Setting
from ldarnet.tasks.metrics import METRICS


def content(config: SweepConfig, plan: SweepPlan, folders: Folders, metric: str) -> dict[str, Any]:
    """Everything that was searched and found, for sweep.json; no test number is among it."""
    return {
        "metric": metric,
        "space": config.model_dump(mode="json")["space"],
        "search": config.model_dump(mode="json")["search"],
        "tasks": {name: _task(task, folders, metric) for name, task in plan.tasks.items()},
    }


def compare(plan: SweepPlan, folders: Folders) -> Path | None:
    """Put the chosen settings beside published numbers; returns where, None if no task has results on test rows.

    Raises:
        UserError: a result is damaged, or of other data than another of its task.
    """
    paths = [path for task in plan.tasks.values() for path in chosen_results(task, folders)]
    tested = [path for path in paths if (result := read_result(path.parent)) is not None and result["test"]]
    if not tested:
        return None
    write_comparison({folders.root.name: tested}, folders.root / run_files.COMPARISON)
    return folders.root / run_files.COMPARISON / run_files.COMPARISON_REPORT


def chosen_results(task: TaskPlan, folders: Folders) -> list[Path]:
    """The results of a task's chosen setting that there are, fold by fold."""
    if (chosen := task.chosen) is None:
        return []
    paths = [folders.result(task.task, chosen.name, fold) for fold in task.folds]
    return [path for path in paths if path.is_file()]


def numbers(plan: SweepPlan, metric: str) -> dict[str, float]:
    """The mean validation metric of each task's chosen setting."""
    ranked = {task.task: task.ranking()[0][1] for task in plan.tasks.values() if task.chosen is not None}
    return {f"{task}/valid/{metric}": mean for task, mean in ranked.items()}


def searched(config: SweepConfig) -> str:
    """What is compared, in words."""
    keys = ", ".join(config.space)
    if not keys:
        return "one setting, as given"
    if config.search.kind == "grid":
        return f"every combination of {keys}"
    return f"{config.search.trials} settings of {keys} for each task, suggested by Optuna"


def summary(config: SweepConfig, plan: SweepPlan, folders: Folders, metric: str) -> str:
    """In words: what was searched, what was chosen for each task, what failed."""
    lines = [f"{searched(config)}, by validation {METRICS[metric].name} alone", ""]
    for task in plan.tasks.values():
        lines.append(f"{task.task}: {_choice(task, metric)}")
        if task.chosen is not None and (best := folders.classifier(task)) is not None:
            model = folders.of_setting(task.task, task.chosen.name) / best / run_files.EXPORT
            lines.append(f"  use it: ldarnet predict {model} my.fa --out predictions.tsv")
        for one, fold, cell in task.cells():
            if cell.state == "failed" and not task.mistake:
                log = folders.of_fold(task.task, one.name, fold) / run_files.TRIAL_LOG
                lines.append(f"  failed: {one.name} fold {fold}: {cell.reason}; see {log}")
    lines += ["", f"all settings and folds   {folders.root / run_files.SWEEP_REPORT}"]
    return "\n".join(lines) + "\n"


def _task(task: TaskPlan, folders: Folders, metric: str) -> dict[str, Any]:
    chosen = task.chosen
    return {
        "chosen": None if chosen is None else {"setting": chosen.name, "values": chosen.values},
        "why": _choice(task, metric),
        "search_folds": task.search_folds,
        "settings": {one.name: _setting(task, one) for one in task.settings},
        "classifier": folders.classifier(task),
        "results": [str(path.relative_to(folders.root)) for path in chosen_results(task, folders)],
    }


def _setting(task: TaskPlan, setting: Setting) -> dict[str, Any]:
    cells = {fold: task.fold(setting, fold) for fold in task.folds}
    return {
        "values": setting.values,
        "validation": {str(fold): cell.score for fold, cell in cells.items() if cell.state == "finished"},
        "mean": task.mean(setting),
        "stopped": {str(fold): max(cell.epochs, default=0) for fold, cell in cells.items() if cell.state == "stopped"},
        "failed": {str(fold): cell.reason for fold, cell in cells.items() if cell.state == "failed"},
    }


def _choice(task: TaskPlan, metric: str) -> str:
    """Which setting was chosen and why, or why none was."""
    if task.mistake:
        return f"given up: {task.mistake}"
    ranking, settings = task.ranking(), len(task.settings)
    if task.chosen is None:
        over = all(task.is_out(one) or task.mean(one) is not None for one in task.settings)
        return "no setting has finished the search folds" if over and settings else "the search is not finished"
    best, mean = ranking[0]
    folds = f"{len(task.search_folds)} fold{'s' if len(task.search_folds) > 1 else ''}"
    text = f"{best.name}, mean validation {METRICS[metric].name} {mean:.4f} over {folds}"
    text += f", best of {len(ranking)}" if settings > 1 else ""
    text += f"; next {ranking[1][0].name} with {ranking[1][1]:.4f}" if len(ranking) > 1 else ""
    blind = sum((cell.score or 0) <= 0 for cell in _search(task, best)) if metric == "mcc" else 0
    text += f"; no better than chance in {blind} of them, where nothing was learned" if blind else ""
    stopped = sum(any(cell.state == "stopped" for cell in _search(task, one)) for one in task.settings)
    failed = sum(any(cell.state == "failed" for cell in _search(task, one)) for one in task.settings)
    text += f"; {stopped} stopped early" if stopped else ""
    text += f"; {failed} failed and not considered" if failed else ""
    left = sum(task.fold(best, fold).state != "finished" for fold in task.folds)
    return text + (f"; {left} of its folds are not finished" if left else "")


def _search(task: TaskPlan, setting: Setting) -> list[Any]:
    return [task.fold(setting, fold) for fold in task.search_folds]
