"""Golden outputs: the published code and ours compute the same numbers from the same checkpoint."""

import pytest
import torch

from ldarnet import load_published_checkpoint, save_published_checkpoint
from ldarnet.model.published import to_published


@pytest.fixture(scope="module")
def expected(shared):
    return torch.load(shared / "golden" / "parity_tiny.expected.pt", weights_only=True)


@pytest.fixture
def checkpoint(shared):
    return shared / "golden" / "parity_tiny.ckpt.pt"


def relative(ours, theirs):
    theirs = theirs.double()
    return ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()


def test_outputs_in_float64(checkpoint, expected):
    model = load_published_checkpoint(checkpoint).double()
    assert (model.config.target_ratio, model.config.ratio_weight) == (
        expected["target_ratio"],
        expected["ratio_weight"],
    )
    for sequence in expected["sequences"]:
        out = model(sequence["input_ids"], labels=sequence["labels"])
        assert relative(out.logits, sequence["logits"]) < 1e-6
        assert relative(out.last_hidden_state, sequence["last_hidden_state"]) < 1e-6
        assert abs(out.mlm_loss.item() - sequence["mlm_loss"]) < 1e-8
        assert abs(out.ratio_loss.item() - sequence["ratio_loss"]) < 1e-8
        assert len(out.boundaries) == len(sequence["boundary_prob"])
        for stage, probability, mask in zip(
            out.boundaries, sequence["boundary_prob"], sequence["boundary_mask"], strict=True
        ):
            assert (stage.probability - probability).abs().max() < 1e-8
            assert torch.equal(stage.mask, mask)


def test_gradients_in_float64(checkpoint, expected):
    model = load_published_checkpoint(checkpoint).double()
    sequence = expected["sequences"][0]
    model(sequence["input_ids"], labels=sequence["labels"]).loss.backward()
    ours = to_published(model, {name: p.grad for name, p in model.named_parameters()})
    assert len(sequence["grads"]) > 100
    for name, gradient in sequence["grads"].items():
        assert ours[name].shape == gradient.shape
        assert relative(ours[name], gradient) < 1e-5, name


def test_outputs_in_float32(checkpoint, expected):
    model = load_published_checkpoint(checkpoint)
    for sequence in expected["sequences"]:
        out = model(sequence["input_ids"], labels=sequence["labels"])
        assert relative(out.logits, sequence["logits"]) < 1e-3
        assert relative(out.last_hidden_state, sequence["last_hidden_state"]) < 1e-3
        assert torch.equal(out.boundaries[0].mask, sequence["boundary_mask"][0])
        assert abs(out.mlm_loss.item() - sequence["mlm_loss"]) < 1e-3
        assert out.boundaries[0].probability.dtype == torch.float32


def test_saving_reproduces_the_published_file(checkpoint, tmp_path):
    save_published_checkpoint(load_published_checkpoint(checkpoint), tmp_path / "copy.pt", step=3)
    original = torch.load(checkpoint, weights_only=True)
    copy = torch.load(tmp_path / "copy.pt", weights_only=True)
    assert copy["step"] == original["step"]
    assert {k: copy["config"][k] for k in original["config"]} == original["config"]
    assert copy["model"].keys() == original["model"].keys()
    assert all(torch.equal(copy["model"][name], tensor) for name, tensor in original["model"].items())
