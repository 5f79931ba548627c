"""Pretraining with a chunking method without a router."""

import re

import pytest
import torch
from safetensors.torch import load_file

from ldarnet import LDARNetForMaskedLM
from ldarnet.config import differences, load_config
from ldarnet.data import Masking, ShardSet, Windows, training_steps, validation_batches
from ldarnet.data.bpe_corpus import train_bpe
from ldarnet.errors import UserError
from ldarnet.model import load_model
from ldarnet.pretraining.chunk_boundaries import FromIds, boundary_source
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.tokenization.bpe import BPE
from tests.pretraining.test_resume import TIMING_KEYS
from tests.support.ranks import WORKERS, write_config

STEPS = 60


def lines(run):
    return [{key: line[key] for key in line if key not in TIMING_KEYS} for line in read_metrics(run / "metrics.jsonl")]


@pytest.mark.parametrize("method", ["random", "entropy", "bpe", "file"])
def test_boundaries_without_a_router_train_and_resume_on_two_ranks(tmp_path, shards, run_ranks, method):
    chunking = {"random": {"seed": 3}, "entropy": {"order": 4}}.get(method, {})
    model = {"preset": "tiny", "chunking": {"method": method, **chunking}}
    if method == "bpe":
        model["chunking_tokenizer"] = str(write_tokenizer(tmp_path / "tokenizer.json", shards))
    changes = {"model": model, "training": {"steps": STEPS}, "validation": {"mask_spans": [1, 6]}}
    if method == "file":
        changes["data"] = {"boundaries": str(write_track(tmp_path / "track.bed", shards))}
    file = write_config(tmp_path, shards, **changes)
    resumed = f"{file} run.dir={tmp_path}/resumed"
    arguments = (f"{file} run.dir={tmp_path}/unbroken", f"{resumed} training.stop_after=20", resumed)
    output = run_ranks(2, *arguments, script=WORKERS / "several_runs.py").succeed()
    described = {"random": "random, seed=3", "entropy": "entropy, order=4", "bpe": "bpe, ", "file": "file, track="}[
        method
    ]
    assert f"chunks   method {described}" in output
    assert "see launch/README.md, Router health" not in output
    first, second = (
        load_file(tmp_path / name / f"checkpoints/step-{STEPS:08}/model.safetensors")
        for name in ("unbroken", "resumed")
    )
    assert all(first[name].equal(second[name]) for name in first)
    assert lines(tmp_path / "unbroken") == lines(tmp_path / "resumed")
    trained = [line for line in lines(tmp_path / "unbroken") if line["split"] == "train"]
    rates = [line["bases_per_chunk"][0] for line in trained]
    assert all(line["warnings"] == {} for line in trained)
    if method == "entropy":
        assert set(rates) == {4.0}
    else:
        assert len(set(rates)) > 1 and all(1.5 < rate < 8 for rate in rates)
    if method == "bpe":
        check_bpe(tmp_path, output, rates)


def write_track(file, shards, step=5):
    """BED file with a border at every ``step`` bases."""
    contigs = ShardSet.open(str(shards)).contigs.items()
    borders = ((name, at) for name, length in contigs for at in range(step, length - step, 2 * step))
    file.write_text("".join(f"{name}\t{at}\t{at + step}\n" for name, at in borders))
    return file


@pytest.mark.slow
def test_a_track_serves_figures_and_a_run_does_not_resume_with_another(tmp_path, shards, run_ranks):
    track = write_track(tmp_path / "track.bed", shards)
    model, data = {"preset": "tiny", "chunking": {"method": "file"}}, {"boundaries": str(track)}
    file = write_config(tmp_path, shards, model=model, data=data)
    run = tmp_path / "run"
    run_ranks(1, "--config", file, f"run.dir={run}", "training.stop_after=6").succeed()
    write_track(track, shards, step=7)
    ((code, _, error),) = run_ranks(1, "--config", file, f"run.dir={run}").wait()
    assert code == 1 and "model architecture differs from the configuration (chunking" in error
    write_track(track, shards)
    moved = track.rename(tmp_path / "moved.bed")
    run_ranks(1, "--config", file, f"run.dir={run}", f"data.boundaries={moved}").succeed()
    assert (run / "figures/boundaries.png").is_file()
    exported = LDARNetForMaskedLM.from_pretrained(run / "export")
    ids = torch.randint(0, 4, (1, 20))
    with pytest.raises(UserError, match="method file needs the argument `boundaries`; pass those of your track"):
        exported(ids)
    given = torch.rand(1, 20) < 0.3
    assert exported(ids, boundaries=given).boundaries[0].mask[:, 1:].equal(given[:, 1:])


def write_tokenizer(file, shards):
    bpe, _, _ = train_bpe(Windows(ShardSet.open(str(shards)), "train", 64), vocab=60, bases=20_000)
    bpe.backend().save(str(file))
    return file


def check_bpe(folder, output, rates):
    """Measured rates, the words in the checkpoint, and a tokenizer file that may move but not change."""
    (measured,) = set(re.findall(r"method bpe, (\S+) bases per chunk", output))
    assert float(measured) == pytest.approx(sum(rates) / len(rates), rel=0.1)
    run = folder / "unbroken"
    model = load_model(run / f"checkpoints/step-{STEPS:08}", LDARNetForMaskedLM)
    merges = model.config.chunking["merges"]
    assert len(merges) > 20
    shards = ShardSet.open(load_config(run / "config.yaml").data.shards)
    source = boundary_source(load_config(run / "config.yaml"), model.config, shards)
    plain, found = (
        next(
            validation_batches(
                shards, "valid", length=64, max_windows=8, batch=8, rank=0, world=1, masking=Masking(), boundaries=one
            )
        )
        for one in (None, source)
    )
    assert plain.boundaries is None and plain.input_ids.equal(found.input_ids)
    own, given = (model(found.input_ids.long(), **inputs) for inputs in ({}, {"boundaries": found.boundaries}))
    assert own.logits.equal(given.logits)
    moved = (folder / "tokenizer.json").rename(folder / "moved.json")
    load_config(run / "config.yaml")  # reports read it where the file may not exist
    again = load_config(run / "config.yaml", [f"model.chunking_tokenizer={moved}"])
    assert differences(load_config(run / "config.yaml"), again) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.chunking.method=bpe", "model.chunking_tokenizer: required by method bpe"),
        ("model.chunking.method=file", "data.boundaries: required by model.chunking.method=file"),
        ("data.boundaries=track.bed", "data.boundaries: only for model.chunking.method=file"),
        ("model.chunking_tokenizer=words.json", "model.chunking_tokenizer: only for model.chunking.method=bpe"),
    ],
)
def test_files_belong_to_their_methods(tmp_path, shards, override, message):
    with pytest.raises(UserError, match=message):
        load_config(write_config(tmp_path, shards), [override])


def test_batches_carry_the_same_boundaries_with_and_without_workers(shards):
    windows = Windows(ShardSet.open(str(shards)), "train", 64)
    options = {"micro_batch": 2, "accumulation": 2, "rank": 0, "world": 1, "first_step": 0, "last_step": 3}
    source = FromIds(BPE(["A C", "G T"]).starts)
    steps = [
        [
            batch
            for step in training_steps(windows, Masking(), **options, workers=workers, boundaries=source)
            for batch in step
        ]
        for workers in (0, 1)
    ]
    assert len(steps[0]) == 6
    for one, other in zip(*steps, strict=True):
        assert one.boundaries.equal(other.boundaries) and one.boundaries.dtype == torch.bool
        assert one.boundaries.numpy().tolist() == source(one.input_ids.numpy(), None).tolist()
