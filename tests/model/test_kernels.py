"""The model with our Triton kernels: golden outputs, and results independent of the batch.

Compiled on a GPU, otherwise under Triton's interpreter.
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
    """Select our kernels (or the references) for a model on any device; check at teardown that every kernel ran."""
    used = set()

    def spy(operation, function):
        return lambda *arguments: (used.add(operation), function(*arguments))[1]

    for operation in OURS:
        kernel = backends_of(operation)["triton"]
        anywhere = replace(kernel, devices=(), function=spy(operation, kernel.function))
        monkeypatch.setitem(backends_of(operation), "triton", anywhere)
    resolve.cache_clear()

    def override(model, backend="triton"):
        assert not used  # only the references have run so far
        model.config.ops.update(dict.fromkeys(OURS, backend))

    yield override
    resolve.cache_clear()
    assert used == set(OURS)


def test_golden_outputs(shared, use_triton):
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


def test_a_batch_gives_the_logits_and_gradients_of_the_references_on_single_sequences(use_triton):
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).double().to(DEVICE)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    sequences = [torch.randint(0, 5, (length,)).to(DEVICE) for length in (20, 1, 9)]
    use_triton(model, "torch")
    alone = [model(sequence[None]).logits[0] for sequence in sequences]
    expected_gradients = torch.autograd.grad(torch.cat(alone).sin().sum(), list(model.parameters()))
    use_triton(model)
    batch = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=model.config.pad_token_id)
    logits = model(batch).logits
    together = torch.cat([logits[row, : len(sequence)] for row, sequence in enumerate(sequences)])
    torch.testing.assert_close(together, torch.cat(alone))
    gradients = torch.autograd.grad(together.sin().sum(), list(model.parameters()))
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
