"""Comparison of optimizers: selection of the learning rate, seeds, report."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import optimizers, record
from ldarnet.errors import UserError

LOSSES = {"adamw": 1.36, "muon": 1.34}
BEST = {"adamw": 1e-3, "muon": 2e-3}


@pytest.fixture
def launches(monkeypatch):
    """Instead of training, write the configuration and metrics of a run; list the launched folders."""
    folders = []

    def launch(command, **_):
        keys = dict(word.split("=", 1) for word in command[command.index("--config") + 2 :])
        folder, name, lr = Path(keys["run.dir"]), keys["optimizer.name"], float(keys["optimizer.lr"])
        seed, steps = int(keys["run.seed"]), int(keys["training.steps"])
        folder.mkdir(parents=True)
        tree = {
            "run": {"dir": str(folder), "seed": seed},
            "data": {"shards": "s", "length": int(keys.get("data.length", 64))},
            "optimizer": {"name": name, "lr": lr},
            "training": {"steps": steps},
        }
        (folder / "config.yaml").write_text(json.dumps(tree))
        loss = LOSSES[name] + seed / 100 + abs(lr - BEST[name])
        lines = [
            {"step": steps, "split": "train", "phase_share": {"update": 0.25}},
            {"step": steps, "split": "valid", "mask_loss": loss},
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        folders.append(folder.name)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(optimizers.subprocess, "run", launch)
    monkeypatch.setattr(record, "provenance", lambda command: command)
    return folders


def compared(folder, *words):
    rates = ("--lr", "1e-3", "2e-3")
    optimizers.main(["--folder", str(folder / "runs"), "--out", str(folder / "results"), *rates, *words])


def test_the_best_learning_rate_of_each_optimizer_is_trained_with_three_seeds(launches, tmp_path, capsys):
    compared(tmp_path, "--note", "Made up.")
    grid = [f"grid-{name}-{lr}-seed0" for name in ("adamw", "muon") for lr in ("0.001", "0.002")]
    assert launches == [
        *grid,
        *(f"run-{name}-seed{seed}" for seed in range(3) for name in ("adamw-0.001", "muon-0.002")),
    ]
    text = Path(capsys.readouterr().out.removeprefix("wrote ").strip()).read_text()
    assert "AdamW 1.3700, Muon 1.3500" in text
    assert "-0.0200, -0.0200, -0.0200; mean -0.0200" in text
    assert "25.0% of a step" in text and "Made up." in text
    compared(tmp_path, "--name", "again")
    assert len(launches) == 10


def test_runs_of_another_configuration_are_an_error(launches, tmp_path):
    compared(tmp_path)
    muon = next((tmp_path / "runs").glob("run-muon*seed2"))
    for file in muon.iterdir():
        file.write_text(file.read_text().replace('"length": 64', '"length": 128'))
    with pytest.raises(UserError, match=r"differs from the other runs in data\.length"):
        compared(tmp_path, "--name", "again")
