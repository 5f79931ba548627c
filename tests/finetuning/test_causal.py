"""Fine-tuning of a causal model: it trains, and its predictions are those of the saved classifier."""

import csv

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForCausalLM
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.run import finetune_on
from ldarnet.model import load_backbone, write_model
from tests.support.planted import predictions, read_config, write_config


def test_a_causal_checkpoint_is_fine_tuned(world, tmp_path):
    torch.manual_seed(0)
    write_model(LDARNetForCausalLM(LDARNetConfig.preset("tiny", causal=True)), tmp_path / "model")
    path = write_config(tmp_path)
    config = read_config(path, "training.epochs=1", f"checkpoint={tmp_path / 'model'}", "folds.only=[1]")
    finetune_on(world, config)
    with (tmp_path / "test.csv").open() as file:
        records = [(row["name"], row["sequence"]) for row in csv.DictReader(file)]
    found = dict(Classifier(config.run.dir).predict(records))
    expected = {row["name"]: float(row["p_yes"]) for row in predictions(config.run.dir, 1)}
    assert {name: row[1] for name, row in found.items()} == pytest.approx(expected, abs=1e-5)
    assert load_backbone(config.run.dir).config.causal
