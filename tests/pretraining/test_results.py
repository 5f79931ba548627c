"""Results of a finished pretraining run."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import N, decode
from ldarnet.config import load_config
from ldarnet.interpret import boundaries
from ldarnet.pretraining import TrainResult
from ldarnet.pretraining.results import FIGURE_BASES, describe, draw_figures
from ldarnet.pretraining.run import best_validation
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState
from sharding.build import build
from tests.support.checkpoints import complete

QUICKSTART = Path(__file__).parents[2] / "configs/pretrain/quickstart.yaml"
VALIDATION = {"mlm_loss": 1.31, "mask_loss": 1.34, "composition_loss": 1.36, "accuracy": 0.3, "bases_per_chunk": [4.0]}


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """Configuration and result of a run of ten steps with its best validation at step 5."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(folder="run", *overrides):
        run_dir = tmp_path / folder
        config = load_config(QUICKSTART, [f"run.dir={run_dir}", "tracking.mlflow=true", *overrides])
        for step in (5, 10):
            checkpoint = run_dir / "checkpoints" / f"step-{step:08d}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "state.json").write_text(json.dumps(asdict(TrainingState(step, 10, 0, 0, "", best_step=5))))
            complete(checkpoint)
        lines = [
            {"step": step, "split": split, **VALIDATION, "mlm_loss": 1.3 + step / 1000, "bases": step}
            for step in (5, 10)
            for split in ("train", "valid")
        ]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        store = CheckpointStore(run_dir, 2)
        validation = best_validation(store, run_dir / "metrics.jsonl")
        return config, TrainResult(run_dir, 10, 10, 0, store.best(), validation, 60.0, None)

    return make


def test_summary_reports_the_exported_checkpoint(finished):
    config, result = finished()
    messages = describe(config, result, result.run_dir / "export", [])
    assert "validation of the best checkpoint (step 5) on split 'valid': MLM loss 1.3050 nats per base" in messages
    assert "checkpoints/step-00000005\n" in messages
    (result.run_dir / "metrics.jsonl").unlink()
    assert best_validation(CheckpointStore(result.run_dir, 2), result.run_dir / "metrics.jsonl") == {}


@pytest.mark.parametrize("folder", ["run", "my run", 'it\'s "mine" $HOME'])
def test_printed_commands_quote_any_path(finished, folder):
    config, result = finished(folder)
    export = result.run_dir / "export"
    lines = describe(config, result, export, []).splitlines()
    commands = [shlex.split(line[14:]) for line in lines[lines.index("Next:") + 1 :]]
    report, load, _, train, classify = commands
    assert report == ["ldarnet", "report", str(result.run_dir)]
    loaded = []
    stand_in = "class ldarnet: LDARNetForMaskedLM = type('', (), {'from_pretrained': loaded.append})"
    exec(load[2].replace("import ldarnet; ", stand_in + "\n"), {"loaded": loaded})
    assert loaded == [str(export)]
    assert f"{result.run_dir}/config.yaml" in train
    assert f"checkpoint={result.run_dir}" in classify
    (store,) = [line for line in lines if line.startswith("MLflow")]
    assert shlex.split(store)[1:] == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{result.run_dir}/mlflow.db"]


def test_tracking_uri_with_password_is_not_printed(finished, monkeypatch):
    config, result = finished()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ada:secret@mlflow.example")
    messages = describe(config, result, result.run_dir / "export", [])
    assert "MLflow            at MLFLOW_TRACKING_URI\n" in messages
    assert "mlflow ui" not in messages
    assert "secret" not in messages


@pytest.mark.parametrize(("length", "windows"), [(512, 8), (512, 0), (2048, 8)])
def test_boundary_figure_avoids_windows_without_bases(finished, tmp_path, monkeypatch, length, windows):
    """The middle of both splits is a run of N; without validation, the figure shows the training split."""
    genome = tmp_path / "genome.fa"
    bases = np.random.default_rng(0).integers(0, 4, 30_000).astype(np.uint8)
    bases[10_000:20_000] = N
    genome.write_text(f">train\n{decode(bases)}\n>held\n{decode(bases)}\n")
    build(tmp_path / "shards", [genome], contig_splits={"valid": ["held"]})
    drawn = []
    monkeypatch.setattr(boundaries, "boundary_figure", lambda *arguments, **options: drawn.append(arguments))
    shards = [f"data.shards={tmp_path / 'shards'}", f"data.length={length}", f"validation.windows={windows}"]
    config, result = finished("run", *shards)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    draw_figures(config, result, model)
    ((_, ids, contig, start, _),) = drawn
    assert contig == ("held" if windows else "train")
    assert len(ids) == min(length, FIGURE_BASES)
    assert not (ids == N).any()
    assert np.array_equal(ids, bases[start : start + len(ids)])
