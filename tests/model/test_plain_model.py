"""The model against a naive implementation, for several layouts."""

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, load_published_checkpoint, save_published_checkpoint
from ldarnet.alphabet import PAD
from tests.support.plain_model import PlainModel

SHAPES = {
    "no router": {
        "arch_layout": ["m1T1"],
        "d_model": [16],
        "d_intermediate": [32],
        "attn_cfg": {"num_heads": [2], "rotary_emb_dim": [8], "window_size": [5]},
    },
    "one router": {},
    "two routers, every layer type": {
        "arch_layout": ["m1T1", ["t1M1", ["M1T1"], "m1"], "T1m1"],
        "d_model": [16, 24, 32],
        "d_intermediate": [32, 32, 64],
        "attn_cfg": {"num_heads": [2, 3, 2], "rotary_emb_dim": [8, 4, 16], "window_size": [7, 5, -1]},
    },
    "three routers, equal widths": {
        "arch_layout": ["m1", ["m1", ["m1", ["M1"], "m1"], "m1"], "m1"],
        "d_model": [16, 16, 16, 16],
        "d_intermediate": [0, 0, 0, 32],
        "attn_cfg": {},
    },
}


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_and_boundaries(shape, seed, tmp_path):
    torch.manual_seed(seed)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **shape))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_published_checkpoint(model, tmp_path / "model.pt")
    plain = PlainModel(torch.load(tmp_path / "model.pt", weights_only=True))
    model = load_published_checkpoint(tmp_path / "model.pt").double()
    for length in (1, 2, 40):
        ids = torch.randint(0, PAD, (length,))
        out = model(ids[None], attention_mask=torch.ones(1, length))
        logits, boundaries = plain(ids)
        assert relative(out.logits[0], logits) < 1e-9
        assert len(out.boundaries) == len(boundaries)
        for stage, (probability, mask) in zip(out.boundaries, boundaries, strict=True):
            assert (stage.probability[0] - probability).abs().max() < 1e-9
            assert torch.equal(stage.mask[0], mask)


def test_the_naive_implementation_matches_the_published_outputs(shared):
    plain = PlainModel(torch.load(shared / "golden" / "parity_tiny.ckpt.pt", weights_only=True))
    expected = torch.load(shared / "golden" / "parity_tiny.expected.pt", weights_only=True)
    for sequence in expected["sequences"]:
        logits, ((probability, mask),) = plain(sequence["input_ids"][0])
        assert relative(logits, sequence["logits"][0]) < 1e-9
        assert (probability - sequence["boundary_prob"][0][0]).abs().max() < 1e-9
        assert torch.equal(mask, sequence["boundary_mask"][0][0])
