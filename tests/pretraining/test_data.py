"""Runs on mixtures, on damaged shards, and resumed on other shards."""

import json
import math
import re

import numpy as np
import pytest
from safetensors.torch import load_file

from ldarnet.genome.sources import parse_source
from ldarnet.runtime.checkpoint import read_state
from ldarnet.runtime.metrics_file import read_metrics
from sharding.build import build
from tests.support.ranks import WORKERS

SEVERAL_RUNS = WORKERS / "several_runs.py"


@pytest.fixture(scope="module")
def two_species(tmp_path_factory):
    """Shard set of a large and a small species in small shards, with a held-out contig."""
    folder = tmp_path_factory.mktemp("species")
    random = np.random.default_rng(2)
    for name, bases in (("large", 30_000), ("small", 5_000)):
        bases_text = np.frombuffer(b"ACGT", dtype=np.uint8)[random.integers(0, 4, bases)].tobytes().decode()
        (folder / f"{name}.fa").write_text(f">one\n{bases_text[:-1000]}\n>two\n{bases_text[-1000:]}\n")
    fastas = [parse_source(f"{name}={folder / name}.fa") for name in ("large", "small")]
    held_out = {"valid": ["large/two", "small/two"]}
    build(folder / "shards", fastas, contig_splits=held_out, shard_size=4096, block=1024)
    return folder / "shards"


def weights(run):
    return load_file(run / "checkpoints/step-00000010/model.safetensors")


def train_losses(run):
    return [line["mlm_loss"] for line in read_metrics(run / "metrics.jsonl") if line["split"] == "train"]


def test_mixture_resumes_exactly_and_prints_its_shares(config_file, two_species, run_ranks):
    folder = config_file.parent
    mixed = f"{config_file} data.shards={two_species} data.weights.large=1 data.weights.small=3"
    output = run_ranks(
        1,
        f"{mixed} run.dir={folder}/unbroken",
        f"{mixed} run.dir={folder}/resumed training.stop_after=6",
        f"{mixed} run.dir={folder}/resumed",
        script=SEVERAL_RUNS,
    ).succeed()
    assert "small 75.0%, large 25.0%" in output
    first, second = weights(folder / "unbroken"), weights(folder / "resumed")
    assert all(first[name].equal(second[name]) for name in first)


def test_quarantine_is_the_same_on_any_number_of_ranks(config_file, two_species, run_ranks, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in two_species.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    shards = json.loads((damaged / "index.json").read_text())["shards"]
    (damaged / shards[1]["name"]).unlink()
    overwritten = damaged / shards[3]["name"]
    overwritten.write_bytes(bytes(overwritten.stat().st_size))
    command = ["--config", config_file, f"data.shards={damaged}", "validation.windows=0"]

    ((status, _, errors),) = run_ranks(1, *command).wait()
    assert status != 0 and (shards[1]["name"] in errors or shards[3]["name"] in errors)
    outputs = [
        run_ranks(world, *command, "data.on_damaged=quarantine", f"run.dir={tmp_path / str(world)}").succeed()
        for world in (1, 2)
    ]
    for output in outputs:
        assert (
            output.count(shards[1]["name"])
            and output.count(shards[3]["name"])
            and "skipping unreadable windows" in output
        )
    lines = [read_metrics(tmp_path / str(world) / "metrics.jsonl")[-1] for world in (1, 2)]
    assert lines[0]["quarantined"] == lines[1]["quarantined"] > 0
    assert train_losses(tmp_path / "1") == pytest.approx(train_losses(tmp_path / "2"), rel=1e-4)


def test_another_shard_set_is_rejected_unless_accepted(config_file, other_shards, run_ranks):
    run = config_file.parent / "run"
    run_ranks(1, "--config", config_file, "training.stop_after=4").succeed()
    before = read_state(run / "checkpoints/step-00000004").fingerprint
    other = ["--config", config_file, f"data.shards={other_shards}"]
    ((status, _, errors),) = run_ranks(1, *other).wait()
    assert status != 0 and "data.accept_other=true" in errors
    run_ranks(1, *other, "data.accept_other=true", "training.stop_after=8").succeed()
    assert read_state(run / "checkpoints/step-00000008").fingerprint != before
    assert read_state(run / "checkpoints/step-00000008").best_step in (None, 5, 8)
    run_ranks(1, *other).succeed()
    assert read_state(run / "checkpoints/step-00000010").position == 80


@pytest.mark.slow
def test_steps_follow_the_epochs_of_the_new_shard_set(config_file, two_species, run_ranks):
    run = ["--config", config_file, "training.steps=null", "validation.windows=0"]
    run_ranks(1, *run, "training.epochs=0.1", "training.stop_after=2").succeed()
    run = [*run, f"data.shards={two_species}", "data.accept_other=true", "training.epochs=0.1"]
    output = run_ranks(1, *run).succeed()
    windows = int(re.search(r"([\d,]+) training windows", output)[1].replace(",", ""))
    steps = math.ceil(0.1 * windows / 8)
    assert f"{steps:,} steps" in output and f"step {steps}/{steps}" in output


@pytest.mark.slow
def test_validation_with_quarantined_windows_is_never_the_best(config_file, two_species, run_ranks, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in two_species.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    shards = json.loads((damaged / "index.json").read_text())["shards"]
    (damaged / shards[-1]["name"]).unlink()
    run_ranks(
        2, "--config", config_file, f"data.shards={damaged}", "data.on_damaged=quarantine", "training.steps=5"
    ).succeed()
    (line,) = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "valid"]
    assert line["quarantined"] > 0 and line["windows"] == 10 - line["quarantined"]
    assert read_state(tmp_path / "run/checkpoints/step-00000005").best_step is None
