"""Ablations of tiny models whose runs are stubs of training."""

import io
import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ldarnet.ablation.jobs import PROGRAMS
from ldarnet.ablation.run import Ablation, run_ablation
from ldarnet.config import load_config
from ldarnet.config.ablation import AblationConfig
from tests.support.ranks import WORKERS

STUBS = dict.fromkeys(PROGRAMS, str(WORKERS / "ablation_stub.py"))


def write(folder: Path, *, script: dict[str, Any] | None = None, **ablation: Any) -> Path:
    """Write the configuration of an ablation, the configurations that it uses, and the script of the stub."""
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "script.yaml").write_text(yaml.safe_dump(script or {}))
    pretrain = {
        "run": {"dir": "unused"},
        "model": {"preset": "tiny"},
        "data": {"shards": str(folder / "shards"), "length": 60},
        "training": {"steps": 10, "batch": 4},
        "validation": {"every": 5, "windows": 8, "mask_spans": [1, 6]},
    }
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(pretrain))
    (folder / "finetune.yaml").write_text(yaml.safe_dump({"run": {"dir": "unused"}, "task": "H3"}))
    whole = {
        "ablation": {"dir": str(folder / "out"), "reference": "learned", "seeds": [0, 1]},
        "pretrain": str(folder / "pretrain.yaml"),
        "arms": {"learned": {}, "grid": {"model.chunking.method": "grid"}},
        "lr": {"values": [1e-3, 1e-2], "steps": 5},
        "sizing": {"enabled": False},
        "downstream": {"finetune": str(folder / "finetune.yaml"), "tasks": ["H3"], "modes": ["probe", "finetune"]},
        "resources": {"pretrain": {"gpus": 0}, "finetune": {"gpus": 0}},
        "tracking": {"mlflow": False},
    }
    (folder / "ablation.yaml").write_text(yaml.safe_dump(whole | ablation, sort_keys=False))
    return folder / "ablation.yaml"


def load(path: Path, *overrides: str) -> AblationConfig:
    """Load the configuration of an ablation."""
    return load_config(path, list(overrides), schema=AblationConfig)


def run(path: Path, *overrides: str) -> tuple[Ablation, str, dict[str, Any]]:
    """Run an ablation and return it, its console output and the content of its ablation.json."""
    console = Console(file=io.StringIO(), width=200)
    ablation = run_ablation(load(path, *overrides), STUBS, console)
    return ablation, console.file.getvalue(), json.loads((path.parent / "out" / "ablation.json").read_text())


def starts(path: Path) -> dict[str, int]:
    """Number of starts of each run, such as `learned/seed0/pretrain`; of statistics, `learned`."""
    arms = path.parent / "out" / "arms"
    files = [*arms.rglob("starts"), *arms.rglob("starts-statistics")]
    return {str(file.parent.relative_to(arms)): len(file.read_text().splitlines()) for file in files}
