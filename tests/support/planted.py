"""A task that a tiny model can learn: sequences of class `yes` contain a motif."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ldarnet.config import FinetuneConfig, load_config
from ldarnet.finetuning.batches import Epoch
from ldarnet.finetuning.fold import FoldTraining
from ldarnet.finetuning.run import finetune_on
from ldarnet.runtime.distributed import World

MOTIF = "GATTACA" * 3
LENGTH = 48

TINY: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "folds": {"count": 4, "only": [0, 2], "stratified": True},
    "optimizer": {"lr": 1e-2},
    "training": {"epochs": 2, "batch": 16, "timeout_minutes": 2},
    "tracking": {"mlflow": False},
}


def write_rows(
    path: Path, rows: int, seed: int, classes: tuple[str, ...] = ("no", "yes"), length: int = LENGTH
) -> Path:
    """Write a CSV file of rows that alternate between the classes; sequences of the last class contain the motif."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "sequence", "label"])
        for row in range(rows):
            bases = "".join(rng.choice(list("ACGT"), length + int(rng.integers(0, 9))))
            label = classes[row % len(classes)]
            if label == classes[-1]:
                at = int(rng.integers(0, length - len(MOTIF)))
                bases = bases[:at] + MOTIF + bases[at + len(MOTIF) :]
            table.writerow([f"row{seed}-{row}", bases, label])
    return path


def write_values(path: Path, rows: int, seed: int, titles: tuple[str, ...] = ("label",)) -> Path:
    """Write a CSV file whose first value is 1000 + 100 * the GC fraction; further values have other units."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "sequence", *titles])
        for row in range(rows):
            gc = rng.uniform(0.1, 0.9)
            weights = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
            bases = "".join(rng.choice(list("ACGT"), 48 + int(rng.integers(0, 9)), p=weights))
            share = (bases.count("G") + bases.count("C")) / len(bases)
            table.writerow([f"row{seed}-{row}", bases, *(1000 + 100 * share, -0.01 * share)[: len(titles)]])
    return path


def write_labeled(path: Path, rows: int, seed: int) -> Path:
    """Write a CSV file that labels the bases G and C as 1, the others as 0, and the first base as unknown."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "sequence", "label"])
        for row in range(rows):
            bases = "".join(rng.choice(list("ACGT"), 40 + int(rng.integers(0, 9))))
            label = "".join("1" if base in "GC" else "0" for base in bases)
            table.writerow([f"row{seed}-{row}", bases, "." + label[1:]])
    return path


def write_config(folder: Path, **changes: dict[str, Any]) -> Path:
    """Write a configuration that trains a tiny model on two folds, with 96 training and 40 test rows.

    The first test row duplicates the first training row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, test = write_rows(folder / "train.csv", 96, 1), write_rows(folder / "test.csv", 40, 2)
    rows = test.read_text().splitlines()
    known = train.read_text().splitlines()[1].split(",")[1]
    test.write_text("\n".join([rows[0], f"row2-0,{known},no", *rows[2:]]) + "\n")
    tree = {**TINY, "run": {"dir": str(folder / "run")}, "data": {"train": str(train), "test": str(test)}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**tree, **changes}))
    return path


def read_config(path: Path, *overrides: str) -> FinetuneConfig:
    """Load a fine-tuning configuration with overrides."""
    return load_config(path, list(overrides), schema=FinetuneConfig)


def result(run: Path, fold: int = 0) -> dict[str, Any]:
    """Content of the result.json of a fold."""
    return json.loads((run / f"fold{fold}/result.json").read_text())


def lines(run: Path, fold: int = 0) -> list[dict[str, Any]]:
    """Metrics lines of a fold, without timings."""
    read = [json.loads(text) for text in (run / f"fold{fold}/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("seconds", "bases_per_second")} for line in read]


def predictions(run: Path, fold: int = 0) -> list[dict[str, str]]:
    """Rows of predictions.tsv of a fold."""
    with (run / f"fold{fold}/predictions.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def stop(world: World, config: FinetuneConfig, after: int) -> None:
    """Start a run, and stop it by SIGTERM after the given number of steps."""
    step, taken = FoldTraining._step, []

    def stopping(training: FoldTraining, epoch: Epoch) -> None:
        taken.append(step(training, epoch))
        if len(taken) == after:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FoldTraining, "_step", stopping)
        ended = finetune_on(world, config)
    assert (ended.finished, ended.signal) == (False, "SIGTERM")
    assert len(taken) == after
    assert not (config.run.dir / "fold0/result.json").exists()


def run(world: World, path: Path, *overrides: str) -> Path:
    """Fine-tune with a configuration; returns the run folder."""
    config = read_config(path, *overrides)
    finetune_on(world, config)
    return config.run.dir
