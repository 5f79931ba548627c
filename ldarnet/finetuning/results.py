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
from ldarnet.finetuning.job import FinetuneJob, FoldResult
from ldarnet.finetuning.records import RESULT, FoldRecord, Outcome
from ldarnet.finetuning.targets import Targets, targets_of
from ldarnet.io import run_files
from ldarnet.io.files import atomic_path, staged_folder, write_json_atomic
from ldarnet.io.manifest import write_manifest
from ldarnet.io.records import read_record
from ldarnet.model import write_model
from ldarnet.model.classifiers import LDARNetClassifier
from ldarnet.printable import figure_label, printable
from ldarnet.runtime.checkpoint_files import code_commit, save_tensors
from ldarnet.tasks.metrics import undefined
from ldarnet.version import __version__

RESULT_HINT = "delete it and rerun the command that wrote it"


def write_result(job: FinetuneJob, fold: int, trained: FoldResult) -> list[str]:
    """Write the output of a finished fold; rank 0 only.

    Returns:
        Warnings, one sentence each.

    Raises:
        UserError: a prediction is not finite.
    """
    folder, split = job.folder(fold), "validation" if job.test is None else "test"
    rows, _ = job.reported(fold)
    targets = job.fitted_targets(fold)
    predicted = targets.predictions(trained.outputs)
    if trained.network is not None:
        targets.finish(trained.network)
        _write_weights(trained.network, folder / run_files.BEST)
    _check_finite(targets.finite(predicted), rows.names, f"fold {fold}")
    _write_predictions(job, rows.names, rows.labels, predicted, folder / run_files.PREDICTIONS)
    title = f"{figure_label(job.data.task)}, fold {fold}: {len(rows):,} {split} rows"
    problem = targets.draw(rows.labels, predicted, title, folder)
    result = _result(job, fold, trained, targets, rows.labels, predicted)
    write_json_atomic(folder / run_files.RESULT, result, indent=2)
    warnings = _nothing_learned(predicted, job, fold, trained.best)
    warnings += [] if problem is None else [f"fold {fold}: {problem.format(split=split)}"]
    warnings += [
        f"fold {fold}: {' and '.join(missing)} of {name} are undefined for {targets.undefined_for}"
        for name in ("test", "test_leak_free")
        if result[name] and (missing := undefined(result[name], targets.task_type))
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
    job: FinetuneJob, fold: int, trained: FoldResult, targets: Targets, labels: np.ndarray, reported: np.ndarray
) -> dict[str, Any]:
    """Content of result.json. `reported` are predictions for the rows of `FinetuneJob.reported`."""
    tested = job.test is not None
    config, (train, valid) = job.config, job.folds[fold]
    free = job.free if tested else None
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
        "settings": {key: settings[key] for key in fixed_keys(config) if key != "task_type"},
        "seed": config.run.seed,
        "data_fingerprint": job.data.fingerprint,
        "task_type": job.data.task_type,
        targets.names_key: job.data.classes,
        "rows": {
            "train": len(train),
            "valid": len(valid),
            "test": len(labels) if tested else 0,
            "test_leak_free": None if free is None else int(free.sum()),
        },
        "best_epoch": best["epoch"],
        "best_step": best["step"],
        "epochs": trained.epochs,
        "valid": {key: best.get(key) for key in ("loss", *targets.metrics)},
        "test": targets.scores(labels, reported) if tested else None,
        "test_leak_free": (None if free is None or not free.any() else targets.scores(labels[free], reported[free])),
        "intervals": targets.intervals(labels, reported),
        **targets.details(labels, reported),
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


def _check_finite(finite: np.ndarray, names: list[str], fold: str) -> None:
    wrong = np.flatnonzero(~finite)
    if len(wrong):
        raise UserError(
            f"{fold}: {len(wrong):,} rows have non-finite predictions (first: {names[wrong[0]]!r}); "
            "start over with a lower optimizer.lr and a new run.dir"
        )


def _nothing_learned(predicted: np.ndarray, job: FinetuneJob, fold: int, best: dict[str, Any]) -> list[str]:
    """Return a warning if predictions are no better than a constant; see `Targets.nothing_learned`."""
    if (found := job.targets.nothing_learned(predicted, best)) is None:
        return []
    hint = (
        "; try a higher optimizer.lr, a smaller training.batch or more epochs, and compare with model.baseline=kmers, "
        "which takes seconds"
    )
    return [f"fold {fold}: {found}{hint if arm_of(job.config).trains_epochs else ''}"]


def _write_predictions(
    job: FinetuneJob, names: list[str], labels: np.ndarray, predicted: np.ndarray, out: Path
) -> None:
    targets = targets_of(job.data.task_type, list(map(printable, job.data.classes)))
    free = ["" for _ in names] if job.free is None else [str(int(one)) for one in job.free]
    with atomic_path(out) as partial, partial.open("w", encoding="utf-8") as file:
        print("name", *targets.label_columns(), *targets.columns(), "leak_free", sep="\t", file=file)
        for name, label, row, leak_free in zip(names, labels, predicted, free, strict=True):
            print(printable(name), *targets.label_cells(label), *targets.cells(row), leak_free, sep="\t", file=file)


def _write_weights(network: nn.Module, out: Path) -> None:
    """Write LDARNet classifiers as a Hugging Face model folder, and other networks as a weight file with a manifest."""
    shutil.rmtree(out, ignore_errors=True)
    if isinstance(network, LDARNetClassifier):
        write_model(network, out)
        return
    with staged_folder(out) as staged:
        save_tensors(
            {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, staged / run_files.WEIGHTS
        )
        write_manifest(staged)
