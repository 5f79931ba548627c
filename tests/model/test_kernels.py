"""The whole model with our Triton kernels: the authors' numbers, and no sequence knows its batch mates.

Compiled where there is a GPU, else under Triton's interpreter.
"""

from dataclasses import replace

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, load_published_checkpoint
from ldarnet.ops import backends_of, operations, resolve

pytest.importorskip("triton", reason="needs Triton: pip install triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS = [operation for operation in operations() if "triton" in backends_of(operation)]


@pytest.fixture
def use_triton(monkeypatch):
    """Lets our kernels, or at first the references, compute a model on any device; checks at the end that all did."""
    used = set()

    def spy(operation, function):
        return lambda *arguments: (used.add(operation), function(*arguments))[1]

    for operation in OURS:
        kernel = backends_of(operation)["triton"]
        anywhere = replace(kernel, devices=(), function=spy(operation, kernel.function))
        monkeypatch.setitem(backends_of(operation), "triton", anywhere)
    resolve.cache_clear()

    def override(model, backend="triton"):
        assert not used  # by what went before
        model.config.ops.update(dict.fromkeys(OURS, backend))

    yield override
    resolve.cache_clear()
    assert used == set(OURS)


def test_the_goldens(shared, use_triton):
    model = load_published_checkpoint(shared / "golden" / "parity_tiny.ckpt.pt").double().to(DEVICE)
    use_triton(model)
    expected = torch.load(shared / "golden" / "parity_tiny.expected.pt", weights_only=True)
    sequence = min(expected["sequences"], key=lambda sequence: sequence["input_ids"].numel())
    out = model(sequence["input_ids"].to(DEVICE), labels=sequence["labels"].to(DEVICE))
    for ours, theirs in (
        (out.logits, sequence["logits"]),
        (out.last_hidden_state, sequence["last_hidden_state"]),
        (out.boundaries[0].probability, sequence["boundary_prob"][0]),
    ):
        torch.testing.assert_close(ours.cpu(), theirs.double(), rtol=1e-6, atol=1e-6)
    assert torch.equal(out.boundaries[0].mask.cpu(), sequence["boundary_mask"][0])


def test_logits_and_gradients_are_those_of_the_references_and_of_each_sequence_alone(use_triton):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).double().to(DEVICE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sequences = [torch.randint(0, 5, (length,)).to(DEVICE) for length in (20, 1, 9)]
    use_triton(model, "torch")
    alone = [model(sequence[None]).logits[0] for sequence in sequences]
    wanted = torch.autograd.grad(torch.cat(alone).sin().sum(), list(model.parameters()))
    use_triton(model)
    batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=model.config.pad_token_id)
    logits = model(batch).logits
    together = torch.cat([logits[row, : len(sequence)] for row, sequence in enumerate(sequences)])
    torch.testing.assert_close(together, torch.cat(alone))
    got = torch.autograd.grad(together.sin().sum(), list(model.parameters()))
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)
