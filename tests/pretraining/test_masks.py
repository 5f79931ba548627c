"""Masks of spans in training, and validation with several masks."""

import math

import pytest
import torch

from ldarnet import LDARNetForMaskedLM
from ldarnet.alphabet import MASK
from ldarnet.config import load_config
from ldarnet.data import Masking, ShardSet, validation_batches
from ldarnet.errors import UserError
from ldarnet.pretraining.masks import training_masking, validation_maskings
from ldarnet.runtime.metrics_file import read_metrics
from tests.support.ranks import write_config


@pytest.fixture
def configured(config_file):
    return lambda *overrides: load_config(config_file, list(overrides))


def test_masks_of_validation_default_to_those_of_training(configured):
    config = configured("data.mask_rate=0.3", "data.mask_span=6", "run.seed=5")
    assert training_masking(config) == Masking(rate=0.3, seed=5, span=6)
    assert validation_maskings(config) == {"span6": Masking(rate=0.3, seed=0, span=6)}
    config = configured("data.mask_rate=0.3", "validation.mask_rate=0.15", "validation.mask_spans=[1,6]")
    assert training_masking(config) == Masking(rate=0.3)
    assert validation_maskings(config) == {"span1": Masking(), "span6": Masking(span=6)}


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.mask_span=65"],
        ["validation.mask_spans=[1,65]"],
        ["data.mask_span=33", "data.curriculum=[{length: 32, share: 0.1}]"],
    ],
)
def test_spans_longer_than_a_window_are_rejected(configured, overrides):
    with pytest.raises(UserError, match="longer than a window"):
        configured(*overrides)


def test_validation_reports_every_mask(tmp_path, shards, run_ranks):
    masks = {"mask_rate": 0.15, "mask_spans": [6, 1], "every": 2}
    file = write_config(
        tmp_path, shards, data={"mask_rate": 0.3, "mask_span": 6}, validation=masks, training={"steps": 2}
    )
    run_ranks(2, "--config", file).succeed()
    (line,) = [line for line in read_metrics(tmp_path / "run/metrics.jsonl") if line["split"] == "valid"]
    assert list(line["masks"]) == ["span6", "span1"]
    assert line["masks"]["span6"].items() <= line.items()
    model = LDARNetForMaskedLM.from_pretrained(tmp_path / "run/checkpoints/step-00000002").eval()
    for name, masking in (("span1", Masking()), ("span6", Masking(span=6))):
        (batch,) = validation_batches(
            ShardSet.open(str(shards)), "valid", length=64, max_windows=10, batch=10, rank=0, world=1, masking=masking
        )
        masked, labels = batch.input_ids == MASK, batch.labels.long()
        logits = model(batch.input_ids.long()).logits
        loss = torch.nn.functional.cross_entropy(logits[masked], labels[masked]).item()
        expected = {
            "mask_loss": loss,
            "bits_per_masked_base": loss / math.log(2),
            "mlm_loss": torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item(),
            "scored": int(batch.target_counts.sum()),
        }
        assert {key: line["masks"][name][key] for key in expected} == pytest.approx(expected, rel=1e-5)
