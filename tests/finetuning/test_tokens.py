"""Fine-tuning, prediction and export with models that read tokens of several bases."""

import csv

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.run import finetune_on
from ldarnet.model import load_backbone, write_model
from tests.support.planted import predictions, read_config, write_config

TOKENIZERS = {
    "kmers": {"method": "kmers", "k": 6},
    "bpe": {"method": "bpe", "merges": ["G A", "T T", "GA TT", "A C", "AC A", "GATT ACA"]},
}


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    shape = {"arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
    torch.manual_seed(0)
    config = LDARNetConfig.preset("tiny", **shape, tokenizer=TOKENIZERS[request.param])
    write_model(LDARNetForMaskedLM(config), folder)
    return folder


@pytest.fixture(scope="module", params=["full", "probe"])
def run(request, world, tmp_path_factory, checkpoint):
    """Folder of a run of one fold."""
    path = write_config(tmp_path_factory.mktemp("run"))
    options = ["training.epochs=1"] if request.param == "full" else []
    options += [f"checkpoint={checkpoint}", f"training.mode={request.param}", "folds.only=[1]", "evaluation.strands=2"]
    config = read_config(path, *options)
    finetune_on(world, config)
    return config.run.dir


@pytest.fixture(scope="module")
def records(run):
    """Name and bases of the test rows."""
    with (run.parent / "test.csv").open() as file:
        return [(row["name"], row["sequence"]) for row in csv.DictReader(file)]


def probabilities_of_the_run(run):
    return {row["name"]: float(row["p_yes"]) for row in predictions(run, 1)}


def test_predictions_equal_those_of_the_run(run, records):
    done = []
    found = dict(Classifier(run).predict(records, advance=done.append))
    expected = probabilities_of_the_run(run)
    assert {name: row[1] for name, row in found.items()} == pytest.approx(expected, abs=1e-5)
    assert sum(done) == sum(len(text) for _, text in records)


def test_only_a_probe_keeps_the_weights_of_the_network(run, checkpoint):
    before, after = (load_backbone(folder).state_dict() for folder in (checkpoint, run))
    mode = read_config(run / "config.yaml").training.mode
    assert {name: before[name].equal(after[name]) for name in before}["embeddings.weight"] == (mode == "probe")


def test_the_exported_classifier_contains_its_tokenizer(run, records, checkpoint):
    model = AutoModelForSequenceClassification.from_pretrained(run / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    assert model.config.tokenizer == load_backbone(checkpoint).config.tokenizer
    expected = dict(Classifier(run, strands=1).predict(records))
    ids = tokenizer([bases for _, bases in records], padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = model(**ids).logits.softmax(1).numpy()
    assert found == pytest.approx(np.stack([expected[name] for name, _ in records]), abs=1e-5)
    model.save_pretrained(run / "again")
    tokenizer.save_pretrained(run / "again")
    again = dict(Classifier(run / "again", strands=2).predict(records))
    assert {name: row[1] for name, row in again.items()} == pytest.approx(probabilities_of_the_run(run), abs=1e-5)
