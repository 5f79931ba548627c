"""Pretraining with a chunking method without a router."""

from safetensors.torch import load_file

from ldarnet.runtime.metrics_file import read_metrics
from tests.pretraining.test_resume import TIMING_KEYS
from tests.support.ranks import WORKERS, write_config

STEPS = 60


def lines(run):
    return [{key: line[key] for key in line if key not in TIMING_KEYS} for line in read_metrics(run / "metrics.jsonl")]


def test_random_boundaries_train_and_resume_on_two_ranks(tmp_path, shards, run_ranks):
    model = {"preset": "tiny", "chunking": {"method": "random", "seed": 3}}
    file = write_config(tmp_path, shards, model=model, training={"steps": STEPS}, validation={"mask_spans": [1, 6]})
    resumed = f"{file} run.dir={tmp_path}/resumed"
    arguments = (f"{file} run.dir={tmp_path}/unbroken", f"{resumed} training.stop_after=20", resumed)
    output = run_ranks(2, *arguments, script=WORKERS / "several_runs.py").succeed()
    assert "chunks   method random, seed=3" in output
    assert "see launch/README.md, Router health" not in output
    first, second = (
        load_file(tmp_path / name / f"checkpoints/step-{STEPS:08}/model.safetensors")
        for name in ("unbroken", "resumed")
    )
    assert all(first[name].equal(second[name]) for name in first)
    assert lines(tmp_path / "unbroken") == lines(tmp_path / "resumed")
    trained = [line for line in lines(tmp_path / "unbroken") if line["split"] == "train"]
    assert len({line["bases_per_chunk"][0] for line in trained}) > 1
    assert all(2 < line["bases_per_chunk"][0] < 8 and line["warnings"] == {} for line in trained)
