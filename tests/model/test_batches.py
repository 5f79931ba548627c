"""Results for a sequence do not depend on its batch or on padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, LDARNetForSequenceClassification
from ldarnet.alphabet import PAD

TWO_STAGES = {
    "arch_layout": ["m1t1", ["m1T1", ["M1"], "m1"], "t1"],
    "d_model": [16, 24, 32],
    "d_intermediate": [0, 32, 32],
    "attn_cfg": {"num_heads": [2, 2, 2], "rotary_emb_dim": [8, 8, 8], "window_size": [7, 3, -1]},
}


def model_of(seed=0, **changes):
    torch.manual_seed(seed)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **changes)).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def padded(sequences):
    return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=PAD)


def sequences_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 5, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("changes", [{}, TWO_STAGES], ids=["one router", "two routers"])
@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_logits_and_boundaries_do_not_depend_on_the_batch(changes, lengths, seed):
    model, sequences = model_of(**changes), sequences_of(lengths, seed)
    together = model(padded(sequences))
    for row, sequence in enumerate(sequences):
        alone = model(sequence[None])
        torch.testing.assert_close(together.logits[row, : len(sequence)], alone.logits[0])
        for stage, stage_alone in zip(together.boundaries, alone.boundaries, strict=True):
            length = int(stage_alone.lengths)
            assert int(stage.lengths[row]) == length
            torch.testing.assert_close(stage.probability[row, :length], stage_alone.probability[0])
            assert torch.equal(stage.mask[row, :length], stage_alone.mask[0])
            assert not stage.mask[row, length:].any()
            assert not stage.probability[row, length:].any()


@pytest.mark.parametrize("changes", [{}, TWO_STAGES], ids=["one router", "two routers"])
def test_gradients_do_not_depend_on_the_batch(changes):
    model, sequences = model_of(**changes), sequences_of([1, 2, 130, 64, 17])
    weights = [torch.randn(len(s), 7, dtype=torch.float64) for s in sequences]
    alone = sum((model(s[None]).logits[0] * w).sum() for s, w in zip(sequences, weights, strict=True))
    expected = torch.autograd.grad(alone, list(model.parameters()), allow_unused=True)
    logits = model(padded(sequences)).logits
    together = sum((logits[i, : len(w)] * w).sum() for i, w in enumerate(weights))
    actual = torch.autograd.grad(together, list(model.parameters()), allow_unused=True)
    for (name, _), a, b in zip(model.named_parameters(), actual, expected, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_left_padding_and_an_attention_mask_do_not_change_logits():
    model, (sequence,) = model_of(), sequences_of([30])
    left = torch.cat([torch.full((12,), PAD), sequence])[None]
    torch.testing.assert_close(model(left).logits[0, 12:], model(sequence[None]).logits[0])
    hidden = torch.cat([sequence, torch.zeros(9, dtype=torch.int64)])[None]
    mask = (torch.arange(39) < 30)[None]
    torch.testing.assert_close(model(hidden, mask).logits[0, :30], model(sequence[None]).logits[0])


def test_losses_exclude_padding():
    model, sequences = model_of(), sequences_of([40, 9])
    labels = padded([s.clone() for s in sequences])
    labels[labels == PAD] = -100
    out = model(padded(sequences), labels=labels)
    alone = [model(s[None], labels=s[None]) for s in sequences]
    torch.testing.assert_close(out.mlm_loss, (40 * alone[0].mlm_loss + 9 * alone[1].mlm_loss) / 49)
    totals = [torch.stack(one.boundaries[0].totals()) for one in alone]
    torch.testing.assert_close(torch.stack(out.boundaries[0].totals()), totals[0] + totals[1])


def test_no_targets_give_zero_loss_and_an_all_padding_batch_is_an_error():
    model = model_of()
    out = model(torch.zeros(1, 5, dtype=torch.int64), labels=torch.full((1, 5), -100))
    assert out.mlm_loss.item() == 0
    with pytest.raises(ValueError, match="only padding"):
        model(torch.full((2, 3), PAD))


def test_classifier_logits_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    model = LDARNetForSequenceClassification(LDARNetConfig.preset("tiny", num_labels=3)).double()
    sequences = sequences_of([25, 3])
    together = model(padded(sequences), labels=torch.tensor([0, 2]))
    assert together.logits.shape == (2, 3)
    for row, sequence in enumerate(sequences):
        torch.testing.assert_close(together.logits[row], model(sequence[None]).logits[0])
    together.loss.backward()
    assert all(p.grad is not None for p in model.parameters())
