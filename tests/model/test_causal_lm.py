"""LDARNetForCausalLM as a Hugging Face class: labels, loss, saving, and what is refused."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from ldarnet import (
    LDARNetConfig,
    LDARNetForCausalLM,
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    save_published_checkpoint,
)
from ldarnet.alphabet import MASK, PAD, N
from ldarnet.errors import UserError
from ldarnet.interpret.boundaries import boundary_track
from ldarnet.model import LDARNetLanguageModel, load_backbone, load_model, write_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LDARNetForCausalLM(LDARNetConfig.preset("tiny", causal=True)).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    write_model(model, folder)
    return folder


def test_labels_are_shifted_and_only_bases_are_predicted(model):
    ids = torch.tensor([[0, 1, N, 2, 3, MASK, 1, 0], [PAD, PAD, 3, 3, 2, 0, PAD, PAD]])
    out = model(ids, labels=ids)
    predicted = [(0, 0), (0, 2), (0, 3), (0, 5), (0, 6), (1, 2), (1, 3), (1, 4)]
    expected = sum(F.cross_entropy(out.logits[row, t], ids[row, t + 1]) for row, t in predicted) / len(predicted)
    torch.testing.assert_close(out.next_base_loss, expected)
    torch.testing.assert_close(out.loss, expected + model.config.ratio_weight * out.ratio_loss)
    assert out.mlm_loss is None


def test_labels_and_attention_mask_exclude_positions(model):
    ids = torch.tensor([[0, 1, 2, 3, 3, 1]])
    labels = torch.tensor([[0, 1, -100, 3, 3, 1]])
    out = model(ids, attention_mask=torch.tensor([[1, 1, 1, 1, 1, 0]]), labels=labels)
    expected = sum(F.cross_entropy(out.logits[0, t], ids[0, t + 1]) for t in (0, 2, 3)) / 3
    torch.testing.assert_close(out.next_base_loss, expected)
    assert model(ids[:, :1], labels=ids[:, :1]).next_base_loss == 0


def test_saved_and_loaded_by_the_auto_class(model, folder):
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(loaded, LDARNetForCausalLM) and loaded.config.causal
    ids = torch.randint(0, 4, (2, 30))
    assert torch.equal(loaded.eval()(ids).logits, model(ids).logits)
    assert isinstance(load_model(folder, LDARNetLanguageModel), LDARNetForCausalLM)


def test_the_classes_refuse_each_others_models(model, folder, tmp_path):
    with pytest.raises(ValueError, match="causal=True: not supported by LDARNetForMaskedLM; use LDARNetForCausalLM"):
        AutoModelForMaskedLM.from_pretrained(folder)
    with pytest.raises(ValueError, match="causal=False: not supported by LDARNetForCausalLM; use LDARNetForMaskedLM"):
        LDARNetForCausalLM(LDARNetConfig.preset("tiny"))
    with pytest.raises(UserError, match="the published format has no causal models"):
        save_published_checkpoint(model, tmp_path / "model.pt")
    with pytest.raises(UserError, match="is LDARNetForCausalLM, not LDARNetForMaskedLM"):
        load_model(folder, LDARNetForMaskedLM)


def test_generation_is_refused(model):
    assert not model.can_generate()
    with pytest.raises(NotImplementedError, match="generation is not supported"):
        model.generate(torch.zeros(1, 4, dtype=torch.int64))


def test_only_causal_models_save_the_key(model):
    assert model.config.to_dict()["causal"] is True
    assert "causal" not in LDARNetConfig.preset("tiny").to_dict()


def test_the_backbone_serves_classifiers_and_boundary_tracks(model, folder):
    backbone = load_backbone(folder)
    (track,) = boundary_track(backbone, torch.randint(0, 4, (40,)).numpy())
    assert track is not None
    classifier = LDARNetForSequenceClassification.from_pretrained(folder, num_labels=3)
    ids = torch.randint(0, 4, (2, 30))
    mean = backbone(ids).last_hidden_state.mean(1)
    torch.testing.assert_close(classifier.eval()(ids).logits, classifier.classifier(mean))
