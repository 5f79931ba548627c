"""Ablations with real training, through the command line."""

import csv
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


def test_boundaries_from_files_and_from_a_context_model(ablation: Path, shards: Path) -> None:
    """Arms with `bpe`, `entropy` and `file`, each one line of the configuration."""
    folder = ablation.parent
    words, track = folder / "words.json", folder / "track.bed"
    program = ["train-tokenizer", str(shards), "--vocab", "12", "--out", str(words)]
    Ranks(1, ROOT / "ldarnet" / "__main__.py", program, launched=False).succeed()
    track.write_text("".join(f"first\t{start}\t{start + 3}\n" for start in range(0, 39_990, 7)))
    config = yaml.safe_load(ablation.read_text())
    config["downstream"] = {}
    config["arms"] = {
        "learned": {},
        "bpe": {"model.chunking.method": "bpe", "model.chunking_tokenizer": str(words)},
        "entropy": {"model.chunking.method": "entropy", "model.chunking.order": 3},
        "file": {"model.chunking.method": "file", "data.boundaries": str(track)},
    }
    ablation.write_text(yaml.safe_dump(config, sort_keys=False))
    printed = run(ablation, "resources.pretrain.gpus=0", "resources.finetune.gpus=0")
    assert "[8/8]" in printed
    rows = list(csv.DictReader((folder / "out" / "report" / "pretraining.csv").open()))
    found = {row["arm"]: float(row["bases_per_chunk"]) for row in rows if row["loss"] == "span6"}
    assert found.keys() == config["arms"].keys()
    assert 1 < found["bpe"] < 4 and found["entropy"] == pytest.approx(4, abs=0.3)
    statistics = {arm: json.loads((folder / "out" / "arms" / arm / "statistics.json").read_text()) for arm in found}
    routers = {arm: len(content["seeds"]["0"]) for arm, content in statistics.items()}
    assert routers == {"learned": 1, "bpe": 1, "entropy": 1, "file": 0}
