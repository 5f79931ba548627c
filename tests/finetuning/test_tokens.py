"""Fine-tuning and prediction with models that read tokens of several bases."""

import numpy as np
import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.finetuning.predict import Classifier
from ldarnet.finetuning.run import finetune_on
from ldarnet.model import write_model
from tests.support.planted import predictions, read_config, write_config

KMERS = {"method": "kmers", "k": 6}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    shape = {"arch_layout": ["M1"], "d_model": [16], "d_intermediate": [32]}
    torch.manual_seed(0)
    write_model(LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **shape, tokenizer=KMERS)), folder)
    return folder


@pytest.mark.parametrize("mode", ["full", "probe"])
def test_a_classifier_reads_the_tokens_of_its_checkpoint(world, tmp_path, checkpoint, mode):
    path = write_config(tmp_path)
    options = [f"checkpoint={checkpoint}", f"training.mode={mode}", "folds.only=[1]", "evaluation.strands=2"]
    config = read_config(path, *options, *(["training.epochs=1"] if mode == "full" else []))
    finetune_on(world, config)
    classifier = Classifier(config.run.dir)
    rows = predictions(config.run.dir, 1)
    sequences = dict(_sequences(tmp_path / "test.csv"))
    records = [(row["name"], sequences[row["name"]]) for row in rows]
    done = []
    found = dict(classifier.predict(records, advance=done.append))
    expected = np.array([float(row["p_yes"]) for row in rows])
    assert np.array([found[row["name"]][1] for row in rows]) == pytest.approx(expected, abs=1e-5)
    assert sum(done) == sum(len(text) for _, text in records)


def _sequences(path):
    header, *rows = (line.split(",") for line in path.read_text().splitlines())
    return [(row[header.index("name")], row[header.index("sequence")]) for row in rows]
