"""Output of a finished fold: weights, predictions, figures and, written last, result.json."""

import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ldarnet.config import fixed_keys, flatten
from ldarnet.errors import UserError
from ldarnet.finetuning.arms import arm_of
from ldarnet.finetuning.figures import draw_confusion, draw_roc
from ldarnet.finetuning.job import FinetuneJob, FoldResult
from ldarnet.finetuning.predictions import cells, columns
from ldarnet.finetuning.records import RESULT, FoldRecord, Outcome
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, staged_folder, write_json_atomic
from ldarnet.io.manifest import write_manifest
from ldarnet.io.records import read_record
from ldarnet.model import LDARNetForSequenceClassification, write_model
from ldarnet.printable import figure_label, printable
from ldarnet.runtime.checkpoint_files import code_commit, save_tensors
from ldarnet.tasks.metrics import METRICS, scores, undefined
from ldarnet.tasks.resampling import row_intervals
from ldarnet.version import __version__

RESULT_HINT = "delete it and rerun the command that wrote it"


def write_result(job: FinetuneJob, fold: int, trained: FoldResult) -> list[str]:
    """Write the output of a finished fold; rank 0 only.

    Returns:
        Warnings, one sentence each.

    Raises:
        UserError: a probability is not finite.
    """
    folder, split = job.folder(fold), "validation" if job.test is None else "test"
    rows, _ = job.reported(fold)
    if trained.network is not None:
        _write_weights(trained.network, folder / run_files.BEST)
    probabilities = np.exp(trained.outputs.log_probabilities)
    _check_finite(probabilities, rows.names, f"fold {fold}")
    _write_predictions(job, rows.names, rows.labels, probabilities, folder / run_files.PREDICTIONS)
    title = f"{figure_label(job.data.task)}, fold {fold}: {len(rows):,} {split} rows"
    draw_confusion(rows.labels, probabilities.argmax(1), job.data.classes, title, folder / run_files.CONFUSION_FIGURE)
    drawn = draw_roc(rows.labels, probabilities, job.data.classes, title, folder / run_files.ROC_FIGURE)
    result = _result(job, fold, trained, rows.labels, probabilities)
    write_json_atomic(folder / run_files.RESULT, result, indent=2)
    warnings = _nothing_learned(probabilities, job, fold, trained.best)
    warnings += [] if drawn else [f"fold {fold}: no ROC curve, because the {split} rows have a single class"]
    warnings += [
        f"fold {fold}: {' and '.join(missing)} of {name} are undefined for rows of a single class"
        for name in ("test", "test_leak_free")
        if result[name] and (missing := undefined(result[name]))
    ]
    return warnings


def read_result(folder: Path) -> FoldRecord | None:
    """Read result.json of a fold; None if the fold is not finished.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / run_files.RESULT
    return read_record(path, RESULT, hint=RESULT_HINT) if path.is_file() else None


def read_outcome(folder: Path) -> Outcome | None:
    """Read the part of result.json that a sweep needs; None if the fold is not finished.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / run_files.RESULT
    return read_record(path, Outcome, hint=RESULT_HINT) if path.is_file() else None


def _result(
    job: FinetuneJob, fold: int, trained: FoldResult, labels: np.ndarray, reported: np.ndarray
) -> dict[str, Any]:
    """Content of result.json. `reported` are class probabilities for the rows of `FinetuneJob.reported`."""
    probabilities = None if job.test is None else reported
    config, (train, valid) = job.config, job.folds[fold]
    free = job.free if probabilities is not None else None
    settings = flatten(config)
    best = trained.best
    return {
        "task": job.data.task,
        "suite": job.data.suite,
        "fold": fold,
        "folds": len(job.folds),
        "arm": config.arm,
        "mode": config.training.mode,
        "metric": config.evaluation.metric,
        "settings": {key: settings[key] for key in fixed_keys(config)},
        "seed": config.run.seed,
        "data_fingerprint": job.data.fingerprint,
        "classes": job.data.classes,
        "rows": {
            "train": len(train),
            "valid": len(valid),
            "test": 0 if probabilities is None else len(labels),
            "test_leak_free": None if free is None else int(free.sum()),
        },
        "best_epoch": best["epoch"],
        "best_step": best["step"],
        "epochs": trained.epochs,
        "valid": {key: best.get(key) for key in ("loss", *METRICS)},
        "test": None if probabilities is None else _metrics(labels, probabilities),
        "test_leak_free": (
            None
            if probabilities is None or free is None or not free.any()
            else _metrics(labels[free], probabilities[free])
        ),
        "intervals": row_intervals(labels, reported),
        "bases_per_chunk": {"before": trained.before, "after": best["bases_per_chunk"]},
        "seconds": trained.seconds,
        "checkpoint": None if config.checkpoint is None else str(config.checkpoint),
        "checkpoint_sha256": job.checkpoint,
        "notes": job.notes,
        "versions": versions(job),
        "commit": code_commit(),
    }


def versions(job: FinetuneJob) -> dict[str, Any]:
    """Versions of Python and of packages, and the kernel of each op."""
    packages = ("torch", "transformers", "deepspeed", "scikit-learn", "numpy")
    own = {"ldarnet": __version__, "python": platform.python_version(), "kernels": job.kernels}
    return own | {name: metadata.version(name) for name in packages}


def _check_finite(probabilities: np.ndarray, names: list[str], fold: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(wrong):
        raise UserError(
            f"{fold}: {len(wrong):,} rows have non-finite probabilities (first: {names[wrong[0]]!r}); "
            "start over with a lower optimizer.lr and a new run.dir"
        )


def _nothing_learned(probabilities: np.ndarray, job: FinetuneJob, fold: int, best: dict[str, Any]) -> list[str]:
    """Return a warning if predictions are no better than predicting one class for all rows.

    `best` is the line of metrics.jsonl for the best epoch.
    """
    mcc, auroc = best["mcc"], best["auroc"]
    predicted = np.unique(probabilities.argmax(1))
    if len(predicted) == 1 and len(probabilities) > 1:
        found = f"every row is predicted as {job.data.classes[predicted[0]]!r}"
    elif mcc is not None and mcc <= 0:
        found = f"validation MCC of the best epoch is {mcc:.4f}, no better than predicting one class"
    else:
        return []
    if auroc is None or auroc <= 0.5:
        found += ": nothing was learned"
    else:
        found += f", though validation AUROC is {auroc:.2f} (0.5: random ranking)"
    hint = (
        "; try a higher optimizer.lr, a smaller training.batch or more epochs, and compare with model.baseline=kmers, "
        "which takes seconds"
    )
    return [f"fold {fold}: {found}{hint if arm_of(job.config).trains_epochs else ''}"]


def _metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, Any]:
    likelihood = probabilities[np.arange(len(labels)), labels]
    loss = -float(np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())
    return {"loss": loss, **scores(labels, probabilities)}


def _write_predictions(
    job: FinetuneJob, names: list[str], labels: np.ndarray, probabilities: np.ndarray, out: Path
) -> None:
    classes = list(map(printable, job.data.classes))
    free = ["" for _ in names] if job.free is None else [str(int(one)) for one in job.free]
    with atomic_path(out) as partial, partial.open("w", encoding="utf-8") as file:
        print("name", "label", *columns(classes), "leak_free", sep="\t", file=file)
        for name, label, row, leak_free in zip(names, labels, probabilities, free, strict=True):
            print(printable(name), classes[label], *cells(classes, row), leak_free, sep="\t", file=file)


def _write_weights(network: nn.Module, out: Path) -> None:
    """Write LDARNet classifiers as a Hugging Face model folder, and other networks as a weight file with a manifest."""
    shutil.rmtree(out, ignore_errors=True)
    if isinstance(network, LDARNetForSequenceClassification):
        write_model(network, out)
        return
    with staged_folder(out) as staged:
        save_tensors(
            {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, staged / run_files.WEIGHTS
        )
        write_manifest(staged)
