"""Section of a comparison report that lists the runs and every setting in which they differ."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ldarnet.comparison.formatting import table
from ldarnet.comparison.results import Comparison, TaskResults
from ldarnet.finetuning.arms import arm_of_result
from ldarnet.markdown import escape

ALWAYS_SHOWN = {"optimizer.lr": "lr", "training.batch": "batch", "run.seed": "seed"}
"""Settings that are always shown for runs that use them, with their short names."""
SHOWN_ELSEWHERE = ("task", "checkpoint", "model.baseline", "training.mode")
"""Settings that the table shows in separate columns."""
UNPREFIXED = ("data", "optimizer", "schedule", "training", "evaluation")
"""Sections whose keys are shown without the section name."""

Settings = dict[str, Any]


def runs_section(comparison: Comparison) -> str:
    """Table with one row per arm and task: model, settings, rows, chunk sizes, time, data and commit."""
    results = comparison.results
    used = [_used(result) for result in results]
    keys = dict.fromkeys(key for settings in used for key in settings if key not in ALWAYS_SHOWN)
    differing = [key for key in keys if len({_text(one.get(key)) for one in _using(key, results, used)}) > 1]
    head = [
        "arm",
        "task",
        "model",
        "settings",
        "folds",
        "rows",
        "bases per chunk (before, after)",
        "minutes per fold",
        "data fingerprint",
        "commit",
    ]
    return (
        "Settings: learning rate, batch size and seed, and all other settings in which the runs differ. Settings that "
        "do not affect a run are omitted.\n\n"
        + table(head, [_run(one, _settings_text(own, differing)) for one, own in zip(results, used, strict=True)])
    )


def _unused(result: TaskResults) -> tuple[str, ...]:
    """Prefixes of the settings that had no effect on a run."""
    content = result.content
    arm, from_checkpoint = arm_of_result(content["arm"], content["mode"]), content["arm"] == "checkpoint"
    ignored = {*arm.ignored, *(arm.ignored_with_checkpoint if from_checkpoint else ())}
    if content["settings"].get("data.limit") is not None:
        ignored.discard("run.seed")  # the seed selects training rows
    return (*SHOWN_ELSEWHERE, *ignored)


def _used(result: TaskResults) -> Settings:
    """Recorded settings that affected a run."""
    recorded = {**result.content["settings"], "run.seed": result.content["seed"]}
    return {key: value for key, value in recorded.items() if not key.startswith(_unused(result))}


def _using(key: str, results: Sequence[TaskResults], used: list[Settings]) -> list[Settings]:
    """Select the settings of the runs that `key` can affect, including runs that did not record `key`.

    Args:
        key: name of a setting.
        results: the runs.
        used: settings of each run, in the order of `results`.
    """
    return [own for result, own in zip(results, used, strict=True) if not key.startswith(_unused(result))]


def _settings_text(used: Settings, differing: list[str]) -> str:
    always = [f"{name} {_text(used[key])}" for key, name in ALWAYS_SHOWN.items() if used.get(key) is not None]
    return ", ".join([*always, *(f"{_name(key)} {_text(used[key])}" for key in differing if key in used)])


def _name(key: str) -> str:
    section, _, rest = key.partition(".")
    return rest if section in UNPREFIXED else key


def _text(value: Any) -> str:
    """Format a value as in a configuration file."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _run(result: TaskResults, settings: str) -> list[object]:
    content = result.content
    model, rows = [content["arm"]], content["rows"]
    if checkpoint := content.get("checkpoint_sha256"):
        model.append(checkpoint[:12])
    chunks = [
        "/".join(f"{np.mean(stage):.2f}" for stage in zip(*stages, strict=True))
        for when in ("before", "after")
        if all(stages := [fold.content["bases_per_chunk"][when] for fold in result.folds])
    ]
    return [
        result.arm,
        result.task.name,
        escape(", ".join([*model, *([] if content["mode"] == "full" else [content["mode"]])])),
        escape(settings or "-"),
        f"{len(result.folds)} of {content['folds']}",
        f"{rows['train']:,} train, {rows['valid']:,} valid, {rows['test']:,} test",
        ", ".join(chunks) or "-",
        f"{np.mean([fold.content['seconds'] for fold in result.folds]) / 60:.1f}",
        escape(content["data_fingerprint"][:12]),
        escape((content.get("commit") or "-")[:12]),
    ]
