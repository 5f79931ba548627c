"""Pretraining of models that read tokens of several bases."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from ldarnet import LDARNetForMaskedLM
from ldarnet.alphabet import IGNORE_INDEX, MASK, PAD
from ldarnet.config import load_config
from ldarnet.config.loading import differences
from ldarnet.data import ShardSet, Windows, validation_batches
from ldarnet.data.bpe_corpus import train_bpe
from ldarnet.errors import UserError
from ldarnet.model import load_model
from ldarnet.model.token_losses import base_log_probabilities, bases_of
from ldarnet.pretraining.masks import validation_maskings
from ldarnet.tokenization.kmers import Kmers
from tests.support.ranks import WORKERS, write_config
from tests.support.two_runs import assert_same, metrics_lines, unbroken_and_resumed

KMERS = Kmers(3)
SHAPE = {"preset": "tiny", "arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
CONFIG = {
    "model": SHAPE | {"tokenizer": {"method": "kmers", "k": 3}},
    "data": {"mask_span": 3},
    "optimizer": {"lr": 0.02},
    "validation": {"mask_spans": [3, 6]},
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, shards):
    return write_config(tmp_path_factory.mktemp("tokens"), shards, **CONFIG)


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["1 rank", "2 ranks"])
def runs(request, config_file, run_ranks):
    return unbroken_and_resumed(run_ranks, request.param, config_file)


def test_stop_and_resume_is_exact(runs):
    assert_same(runs)


def test_losses_are_per_base_and_match_the_saved_model(config_file, runs):
    model = load_model(runs / "unbroken/checkpoints/step-00000010", LDARNetForMaskedLM)
    line = metrics_lines(runs / "unbroken", "valid")[-1]
    shards = ShardSet.open(load_config(config_file).data.shards)
    for name, masking in validation_maskings(load_config(config_file), KMERS).items():
        (batch,) = validation_batches(
            shards, "valid", length=64, max_windows=10, batch=10, rank=0, world=1, masking=masking
        )
        inputs, labels = batch.input_ids.long(), batch.labels.long()
        assert inputs.shape == (10, 64 // 3 + 64 % 3)
        target = labels != IGNORE_INDEX
        masked = target & (inputs == MASK)
        logits = model(inputs).logits
        marginals, bases = base_log_probabilities(logits[masked], 3), bases_of(labels[masked], 3)
        mask_loss = F.cross_entropy(logits[masked], labels[masked]).item() / 3
        expected = {
            "mlm_loss": F.cross_entropy(logits[target], labels[target]).item() / 3,
            "mask_loss": mask_loss,
            "bits_per_masked_base": mask_loss / math.log(2),
            "marginal_loss": -marginals.gather(2, bases[..., None]).mean().item(),
            "accuracy": (marginals.argmax(-1) == bases).double().mean().item(),
            "token_accuracy": (logits[masked].argmax(-1) == labels[masked]).double().mean().item(),
            "composition_loss": torch.distributions.Categorical(bases.flatten().bincount() / bases.numel())
            .entropy()
            .item(),
            "scored": 3 * int(target.sum()),
            "bases_per_token": 64 / (64 // 3 + 64 % 3),
            "ratio_loss": 0,
        }
        assert {key: line["masks"][name][key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert line["bases_per_chunk"] == []


def test_training_lines_have_losses_per_base_and_no_router_metrics(runs):
    train = metrics_lines(runs / "unbroken", "train")
    assert [line["step"] for line in train] == list(range(1, 11))
    assert all(1 < line["mlm_loss"] < 2 for line in train)
    assert len({line["mlm_loss"] for line in train}) == 10
    assert all(line["loss"] == line["mlm_loss"] and line["bases_per_chunk"] == [] for line in train)


def test_the_tokenizer_is_saved_with_the_model(runs):
    saved = json.loads((runs / "unbroken/checkpoints/step-00000010/config.json").read_text())
    assert (saved["tokenizer"], saved["vocab_size"]) == ({"method": "kmers", "k": 3}, 71)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_ranks(config_file, run_ranks):
    losses = []
    for world in (1, 2):
        run = config_file.parent / f"alone-{world}"
        run_ranks(world, f"{config_file} run.dir={run}", script=WORKERS / "several_runs.py").succeed()
        losses.append([line["mlm_loss"] for line in metrics_lines(run, "train")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.mask_span=1", "data.mask_span: tokens of 3 bases are masked as a whole"),
        ("validation.mask_spans=[3,4]", "validation.mask_spans: tokens of 3 bases are masked as a whole"),
        ("validation.regions=regions.bed", "validation.regions is not supported"),
        ("model.tokenizer={method: words}", "unknown method 'words'"),
        ("model.tokenizer={method: kmers}", "model.tokenizer.method=kmers takes the key 'k'"),
        ("model.tokenizer={method: bpe, k: 6}", "model.tokenizer.method=bpe takes the key 'file'"),
        ("model.arch_layout=['m1', ['M1'], 'm1']", "d_model"),
    ],
)
def test_unsuitable_settings_are_rejected(config_file, override, message):
    with pytest.raises(UserError, match=message):
        load_config(config_file, [override])


@pytest.mark.slow
def test_a_byte_pair_encoding_trains_and_resumes(tmp_path, shards, run_ranks):
    windows = Windows(ShardSet.open(str(shards)), "train", 64)
    bpe, _, _ = train_bpe(windows, vocab=40, bases=20_000)
    file = tmp_path / "tokenizer.json"
    bpe.backend().save(str(file))
    model = SHAPE | {"tokenizer": {"method": "bpe", "file": str(file)}}
    changes = CONFIG | {"model": model, "validation": {"mask_spans": [6, 1]}, "data": {"mask_span": 6}}
    config = write_config(tmp_path, shards, **changes)
    resumed = f"{config} run.dir={tmp_path}/resumed"
    runs = (f"{config} run.dir={tmp_path}/unbroken", f"{resumed} training.stop_after=6", resumed)
    run_ranks(2, *runs, script=WORKERS / "several_runs.py").succeed()
    for split in ("train", "valid"):
        assert metrics_lines(tmp_path / "unbroken", split) == metrics_lines(tmp_path / "resumed", split)
    checkpoint = tmp_path / "unbroken/checkpoints/step-00000010"
    model = load_model(checkpoint, LDARNetForMaskedLM)
    assert model.config.tokenizer == bpe.settings
    moved = file.rename(tmp_path / "moved.json")
    again = load_config(config, [f"model.tokenizer.file={moved}"])
    assert differences(load_config(config), again) == []
    load_config(tmp_path / "unbroken/config.yaml")  # reports read it where the file may not exist
    line = metrics_lines(tmp_path / "unbroken", "valid")[-1]
    assert "accuracy" not in line
    for name, masking in validation_maskings(load_config(config), bpe).items():
        (batch,) = validation_batches(
            windows.shards, "valid", length=64, max_windows=10, batch=10, rank=0, world=1, masking=masking
        )
        inputs, labels = batch.input_ids.long(), batch.labels.long()
        nll = F.cross_entropy(model(inputs).logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        bases = int(batch.target_counts.sum())
        expected = {"mlm_loss": nll / bases, "scored": bases, "bases_per_token": 640 / (inputs != PAD).sum().item()}
        assert {key: line["masks"][name][key] for key in expected} == pytest.approx(expected, rel=1e-5)
