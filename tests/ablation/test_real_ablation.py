"""Ablations with real training, through the command line."""

import json
import random
from pathlib import Path

import pytest
import yaml

from tests.support.ranks import ROOT, Ranks

pytestmark = pytest.mark.slow

TOKENS = {
    "model.tokenizer": {"method": "kmers", "k": 6},
    "model.arch_layout": ["M1"],
    "model.d_model": [32],
    "model.d_intermediate": [64],
}


@pytest.fixture
def ablation(tmp_path: Path, shards: Path) -> Path:
    """Write a small table of a task and an ablation of two arms."""
    rng = random.Random(0)
    folder = tmp_path / "tables" / "H3"
    folder.mkdir(parents=True)
    for split, rows in (("train", 48), ("test", 24)):
        lines = [f"{''.join(rng.choices('ACGT', k=48))}\t{row % 2}" for row in range(rows)]
        (folder / f"{split}.tsv").write_text("\n".join(["sequence\tlabel", *lines]) + "\n")
    pretrain = {
        "run": {"dir": "unused"},
        "model": {"preset": "tiny"},
        "data": {"shards": str(shards), "length": 60, "mask_span": 6},
        "training": {"steps": 4, "batch": 4},
        "checkpoint": {"every": 2},
        "validation": {"every": 2, "windows": 8, "mask_spans": [6, 1]},
    }
    (tmp_path / "pretrain.yaml").write_text(yaml.safe_dump(pretrain))
    config = {
        "ablation": {"dir": str(tmp_path / "out"), "reference": "learned", "seeds": [0]},
        "pretrain": str(tmp_path / "pretrain.yaml"),
        "arms": {"learned": {}, "6-mers": TOKENS},
        "sizing": {"enabled": False},
        "downstream": {
            "finetune": str(ROOT / "configs" / "finetune" / "nt.yaml"),
            "tasks": ["H3"],
            "modes": ["probe"],
            "set": {"data.folder": str(tmp_path / "tables"), "folds.count": 2, "training.batch": 16},
        },
    }
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "ablation.yaml"


def run(ablation: Path, *arguments: str) -> str:
    program = ["ablate", "--config", str(ablation), *arguments]
    return Ranks(1, ROOT / "ldarnet" / "__main__.py", program, launched=False).succeed()


def test_ablation_with_two_ranks_per_pretraining_run(ablation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ranks = ("resources.pretrain.ranks=2", "resources.pretrain.launcher=deepspeed", "resources.pretrain.gpus=0")
    printed = run(ablation, *ranks, "resources.finetune.gpus=0")
    assert "[6/6]" in printed
    out = ablation.parent / "out"
    record = json.loads((out / "ablation.json").read_text())
    client = MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")
    for arm in ("learned", "6-mers"):
        folder = out / "arms" / arm
        assert (folder / "statistics.json").is_file()
        assert "2 x CPU" in (folder / "seed0" / "pretrain" / "log.txt").read_text()
        assert (folder / "seed0" / "nt" / "H3" / "probe" / "summary.json").is_file()
        found = client.get_run(record["arms"][arm]["seeds"]["0"]["mlflow_run"])
        assert found.info.run_name == f"{arm} seed 0 pretraining" and found.info.status == "FINISHED"
        assert "mlflow.parentRunId" in found.data.tags
    assert (out / "report").is_dir()
    assert "6 runs finished, 0 to run" in run(ablation, *ranks)
