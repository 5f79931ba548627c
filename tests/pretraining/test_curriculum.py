"""Length curriculum: exact resume after every step; very long windows."""

import re

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.model.cost import cost
from ldarnet.runtime.metrics_file import read_metrics
from sharding.build import build
from tests.support.ranks import WORKERS

STEPS = 10
LONG = 131_072


def tensors(run):
    checkpoint = run / f"checkpoints/step-{STEPS:08d}"
    return load_file(checkpoint / "model.safetensors") | load_file(checkpoint / "optimizer.safetensors")


def losses(run):
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["split"] == "train"]


@pytest.fixture
def grown(config_file):
    """Configuration whose windows grow after steps 3 and 5."""
    tree = yaml.safe_load(config_file.read_text())
    tree["data"]["curriculum"] = [{"length": 16, "share": 0.3}, {"length": 32, "share": 0.2}]
    config_file.write_text(yaml.safe_dump(tree))
    return config_file


def test_resume_is_exact_at_and_within_curriculum_stages(grown, run_ranks, tmp_path):
    unbroken, pieces = tmp_path / "unbroken", tmp_path / "pieces"
    starts = [f"{grown} run.dir={pieces} training.stop_after={step}" for step in (2, 3, 4, 5, STEPS)]
    output = run_ranks(2, f"{grown} run.dir={unbroken}", *starts, script=WORKERS / "several_runs.py").succeed()
    assert (
        "lengths  32 windows of 16 bases until step 3, 16 windows of 32 bases until step 5, 8 windows of 64" in output
    )
    whole, joined = tensors(unbroken), tensors(pieces)
    assert all(whole[name].equal(joined[name]) for name in whole)
    assert losses(unbroken) == losses(pieces)
    lines = [line for line in read_metrics(unbroken / "metrics.jsonl") if line["split"] == "train"]
    assert [line["bases"] for line in lines] == [512 * step for step in range(1, STEPS + 1)]
    assert [line["length"] for line in lines] == [16] * 3 + [32] * 2 + [64] * 5


@pytest.mark.slow
def test_windows_of_131072_bases_train_in_linear_memory(tmp_path, run_ranks):
    """Long windows add less than three times the estimated activation memory to the peak of short windows."""
    fasta, shards = tmp_path / "long.fa", tmp_path / "shards"
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 440_000))
    fasta.write_text(f">first\n{bases[:300_000]}\n>second\n{bases[300_000:]}\n")
    build(shards, [fasta], contig_splits={"valid": ["second"]})
    config_file = tmp_path / "config.yaml"
    tree = {
        "run": {"dir": str(tmp_path / "run")},
        "model": {"preset": "tiny"},
        "data": {"shards": str(shards), "length": LONG, "curriculum": [{"length": 4096, "share": 0.5}]},
        "training": {"steps": 2, "batch": 1},
        "validation": {"every": 2, "windows": 1},
        "tracking": {"mlflow": False},
    }
    config_file.write_text(yaml.safe_dump(tree))
    output = run_ranks(1, config_file, tmp_path / "short", script=WORKERS / "long_windows.py").succeed()
    assert len(losses(tmp_path / "run")) == 2
    config = load_config(config_file).model.build({})
    (chunk,) = read_metrics(tmp_path / "run/metrics.jsonl")[1]["bases_per_chunk"]
    added = int(re.search(r"bytes added: (\d+)", output)[1])
    estimated = cost(config, LONG, [chunk]).activation_bytes * LONG
    print(f"{added / 2**20:.0f} MiB added, {estimated / 2**20:.0f} MiB estimated")
    assert added < 3 * estimated


def test_invalid_curriculum_lengths_are_rejected(config_file):
    with pytest.raises(UserError, match=r"data.curriculum: length 24 does not divide data.length=64"):
        load_config(config_file, ["data.curriculum=[{length: 24, share: 0.1}]"])
    with pytest.raises(UserError, match=r"data.curriculum: the shares must add up to less than 1"):
        load_config(config_file, ["data.curriculum=[{length: 16, share: 0.5}, {length: 32, share: 0.5}]"])
