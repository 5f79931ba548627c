"""Sweeps whose trials run a stub of fine-tuning."""

import io
import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ldarnet.config import load_config
from ldarnet.config.sweep import SweepConfig
from ldarnet.sweeps import Sweep, run_sweep
from tests.support.ranks import WORKERS

STUB = WORKERS / "finetune_stub.py"
SCORES = {"nt/H3": {"0.0001": 0.5, "0.001": 0.4}, "nt/H4": {"0.0001": 0.3, "0.001": 0.4}}


def write(folder: Path, *, epochs: int = 2, folds: int = 2, script: dict[str, Any] | None = None, **sweep: Any) -> Path:
    """Write the configuration of a sweep, its fine-tuning configuration and the script of the stub."""
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "script.yaml").write_text(yaml.safe_dump({"scores": SCORES} | (script or {})))
    fine = {"run": {"dir": "unused"}, "task": "H3", "folds": {"count": folds}, "training": {"epochs": epochs}}
    (folder / "finetune.yaml").write_text(yaml.safe_dump(fine))
    whole = {
        "sweep": {"dir": str(folder / "out"), "tasks": ["H3", "H4"]},
        "finetune": str(folder / "finetune.yaml"),
        "space": {"optimizer.lr": [1e-4, 1e-3]},
        "resources": {"gpus": 0},
        "tracking": {"mlflow": False},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(whole | sweep))
    return folder / "sweep.yaml"


def load(path: Path, *overrides: str) -> SweepConfig:
    return load_config(path, list(overrides), schema=SweepConfig)


def run(path: Path, *overrides: str) -> tuple[Sweep, str, dict[str, Any]]:
    """Run a sweep and return it, its console output and the content of its sweep.json."""
    console = Console(file=io.StringIO(), width=200)
    sweep = run_sweep(load(path, *overrides), str(STUB), console)
    return sweep, console.file.getvalue(), json.loads((path.parent / "out" / "sweep.json").read_text())


def starts(path: Path) -> dict[str, int]:
    """Number of starts of each trial, such as `H3/lr=0.0001/fold0`."""
    trials = path.parent / "out" / "trials" / "nt"
    return {str(file.parent.relative_to(trials)): len(file.read_text().splitlines()) for file in trials.rglob("starts")}
