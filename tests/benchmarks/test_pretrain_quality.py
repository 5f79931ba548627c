import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from benchmarks import context_counts
from benchmarks.context_model import validation_set
from benchmarks.pretrain_quality import Run, compare, evaluate, main, paired
from benchmarks.repeats import KMER_LENGTH, in_training
from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.alphabet import MASK, decode, reverse_complement
from ldarnet.config import load_config
from ldarnet.data import ShardSet
from ldarnet.errors import UserError
from ldarnet.runtime.checkpoint import TrainingState
from sharding.build import build
from tests.support.checkpoints import complete

LENGTH = 64
CONFIG = """
run: {{dir: {run}, seed: {seed}}}
model: {{preset: tiny}}
data: {{shards: {shards}, length: {length}}}
training: {{steps: 20, batch: 4}}
validation: {{windows: 30}}
"""


@pytest.fixture(autouse=True)
def small_tables(monkeypatch):
    monkeypatch.setattr(context_counts, "DENSE", 4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    contigs = {name: rng.integers(0, 4, 20_000).astype(np.uint8) for name in ("one", "two", "held")}
    contigs["held"][:4_000] = reverse_complement(contigs["one"][:4_000])
    fasta = folder / "genome.fa"
    fasta.write_text("".join(f">{name}\n{decode(ids)}\n" for name, ids in contigs.items()))
    build(folder / "shards", [fasta], contig_splits={"valid": ["held"]})
    return ShardSet.open(folder / "shards")


def make_run(folder, shards, *, seed=0, steps=20, length=LENGTH):
    """Write a run folder without training."""
    folder.mkdir()
    text = CONFIG.format(run=folder, seed=seed, shards=shards.folder, length=length)
    (folder / "config.yaml").write_text(text)
    config = load_config(folder / "config.yaml")
    scored = int((validation_set(shards, config)[1] >= 0).sum())
    values = {"mlm_loss": 1.4, "mask_loss": 1.39, "copy_loss": 1.41, "bases_per_chunk": [4.0], "windows": 30}
    lines = [{"step": step, "split": "valid", "scored": scored, **values} for step in (10, steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = folder / "checkpoints" / f"step-{steps:08d}"
    torch.manual_seed(seed)
    LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).save_pretrained(checkpoint)
    state = TrainingState(step=steps, total_steps=20, position=80, seed=seed, fingerprint=shards.fingerprint)
    (checkpoint / "state.json").write_text(json.dumps(asdict(state)))
    complete(checkpoint)
    return folder


@pytest.fixture
def runs(tmp_path, shards):
    return [make_run(tmp_path / "run0", shards), make_run(tmp_path / "run1", shards, seed=1)]


def test_results_file_is_complete(tmp_path, runs, shards, capsys):
    main([*map(str, runs), "--name", "try", "--out", str(tmp_path / "out"), "--note", "A third run failed."])
    (file,) = (tmp_path / "out").iterdir()
    assert capsys.readouterr().out == f"wrote {file}\n"
    assert file.name.endswith("-pretrain-quality-try.md")
    text = file.read_text()
    for part in (
        "A third run failed.", "Commit", "Hardware", "torch 2", "benchmarks.pretrain_quality", "does not beat",
        "Small scale", "(a) unigram baseline", "not comparable", "preset: tiny", "seed 1",
        "spread (sd)", shards.fingerprint[:12], "validated on held", "40,000 bases",
    ):  # fmt: skip
        assert part in text, part
    assert str(tmp_path) not in text.replace(str(tmp_path / "out"), "").split("## Method")[1]


def test_evaluated_loss_matches_the_forward_pass(runs, shards):
    run = Run.open(runs[0], [])
    input_ids, labels = validation_set(shards, run.config)
    scores = evaluate(run, input_ids, labels)
    model = LDARNetForMaskedLM.from_pretrained(run.checkpoint).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(input_ids), labels=torch.from_numpy(labels)).mlm_loss.item()
    assert scores.summary()["model"]["mlm_loss"] == pytest.approx(expected, rel=1e-5)
    assert (scores.masked == (input_ids[scores.rows, scores.columns] == MASK)).all()


def test_all_models_are_scored_at_the_same_positions(runs):
    found = compare([Run.open(folder, []) for folder in runs])
    for scores in found.models:
        np.testing.assert_array_equal(scores.rows, found.baseline.rows)
        np.testing.assert_array_equal(scores.targets, found.baseline.targets)
        np.testing.assert_array_equal(scores.masked, found.baseline.masked)
    assert found.training_bases == 40_000
    assert 0.1 < found.repeated.mean() < 0.3  # 4,000 of the 20,000 held-out bases are copied from training


def test_runs_that_differ_in_more_than_the_seed_are_rejected(tmp_path, shards):
    runs = [make_run(tmp_path / "a", shards), make_run(tmp_path / "b", shards, length=32)]
    with pytest.raises(UserError, match=r"data\.length"):
        compare([Run.open(folder, []) for folder in runs])


def test_another_shard_set_is_rejected(tmp_path, runs, shards):
    fasta = tmp_path / "other.fa"
    fasta.write_text(">one\n" + "ACGT" * 500 + "\n>held\n" + "AACC" * 500 + "\n")
    build(tmp_path / "other", [fasta], contig_splits={"valid": ["held"]})
    with pytest.raises(UserError, match="not trained on"):
        compare([Run.open(runs[0], [f"data.shards={tmp_path / 'other'}"])])


def test_unfinished_run_is_labeled(tmp_path, shards):
    assert Run.open(make_run(tmp_path / "r", shards, steps=15), []).status == "stopped at step 15 of 20"


def test_run_without_checkpoint_is_rejected(tmp_path, runs):
    (runs[0] / "checkpoints" / "step-00000020" / "manifest.json").unlink()
    with pytest.raises(UserError, match=f"{runs[0]}: nothing to evaluate"):
        main([str(runs[0]), "--name", "x", "--out", str(tmp_path)])


def test_paired_error_counts_windows_as_units():
    rng = np.random.default_rng(0)
    shift = rng.normal(0, 1, 400)
    rows = np.repeat(np.arange(400), 50)
    mean, error = paired(shift[rows] + 0.1, np.zeros(len(rows)), rows)
    assert mean == pytest.approx(shift.mean() + 0.1)
    assert error == pytest.approx(1 / np.sqrt(400), rel=0.1)


def test_words_are_found_on_both_strands():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 4, 5_000).astype(np.uint8)
    window = rng.integers(0, 4, (3, 200)).astype(np.uint8)
    window[0, 50:100] = train[300:350]
    window[1, 50 : 50 + KMER_LENGTH] = reverse_complement(train[:KMER_LENGTH])
    window[2, 50 : 50 + KMER_LENGTH - 1] = train[: KMER_LENGTH - 1]
    covered = in_training(window, [train])
    assert np.flatnonzero(covered[0]).tolist() == list(range(50, 100))
    assert np.flatnonzero(covered[1]).tolist() == list(range(50, 50 + KMER_LENGTH))
    assert not covered[2].any()
    assert not in_training(np.full((1, 60), 4, np.uint8), [np.full(100, 4, np.uint8)]).any()
