"""Synthetic fine-tuning runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ldarnet.tasks.metrics import METRICS
from ldarnet.tasks.registry import find_task


def make_run(folder: Path, published: str, values: Sequence[float], **changes: Any) -> list[Path]:
    """Write a run with one fold per value. All metrics of a fold equal its value, minus 0.1 on leak-free test rows.

    Args:
        published: name of a registered task, such as nt/H3.
        values: metric value of each fold.
        changes: fields of result.json to override; `settings={...}` is merged into the default settings.

    Returns:
        The result.json of each fold.
    """
    known = find_task(published)
    rows = known.rows["train"]
    settings = {"folds.seed": 42, "folds.stratified": False, "data.limit": None, "optimizer.lr": 1e-4}
    content = {
        "task": known.name,
        "suite": known.suite,
        "folds": 10,
        "arm": "checkpoint",
        "checkpoint_sha256": "a" * 64,
        "mode": "full",
        "metric": "mcc",
        "seed": 42,
        "data_fingerprint": "f" * 64,
        "classes": ["0", "1"],
        "rows": {"train": rows - rows // 10, "valid": rows // 10, "test": known.rows["test"], "test_leak_free": 100},
        "bases_per_chunk": {"before": [4.0], "after": [5.0]},
        "best_epoch": 2,
        "best_step": 200,
        "seconds": 60.0,
        "commit": "c" * 40,
    } | {key: value for key, value in changes.items() if key != "settings"}
    files = []
    for fold, value in enumerate(values):
        scored = {
            "valid": dict.fromkeys(METRICS, value) | {"loss": 0.5},
            "test": dict.fromkeys(METRICS, value) | {"loss": 0.5},
            "test_leak_free": dict.fromkeys(METRICS, value - 0.1) | {"loss": 0.5},
        }
        file = folder / f"fold{fold}" / "result.json"
        file.parent.mkdir(parents=True)
        chosen = {"fold": fold, "settings": settings | changes.get("settings", {})}
        file.write_text(json.dumps(content | scored | chosen), encoding="utf-8")
        files.append(file)
    return files


def make_tasks(folder: Path, tasks: Sequence[str], values: Sequence[float], **changes: Any) -> list[Path]:
    """Write a run for each task, all with the same values; return the result.json of all folds."""
    return [file for task in tasks for file in make_run(folder / task.replace("/", "-"), task, values, **changes)]


def make_predictions(run: Path, labels: Sequence[int], predicted: Sequence[Sequence[int]]) -> None:
    """Write predictions.tsv for each fold of a run, and the number of test rows to result.json.

    Args:
        labels: class number of each test row.
        predicted: predicted class numbers of the test rows, for each fold.
    """
    for fold, classes in enumerate(predicted):
        lines = ["name\tlabel\tpredicted\tp_0\tp_1\tleak_free"]
        lines += [f"r{row}\t{label}\t{classes[row]}\t0.5\t0.5\t1" for row, label in enumerate(labels)]
        (run / f"fold{fold}" / "predictions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        result = run / f"fold{fold}" / "result.json"
        content = json.loads(result.read_text())
        content["rows"]["test"] = len(labels)
        result.write_text(json.dumps(content))
