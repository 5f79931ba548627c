"""The published checkpoint format: round trips of random models, and invalid files."""

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, load_published_checkpoint, save_published_checkpoint
from ldarnet.errors import UserError

LAYOUTS = {
    "one router": {},
    "two routers, every layer type": {
        "arch_layout": ["m1T1", ["t1M1", ["M1T1"], "m1"], "T1m1"],
        "d_model": [16, 24, 32],
        "d_intermediate": [32, 32, 64],
        "attn_cfg": {"num_heads": [2, 3, 2], "rotary_emb_dim": [8, 4, 8], "window_size": [7, 5, -1]},
    },
    "no router": {
        "arch_layout": ["m1T1"],
        "d_model": [16],
        "d_intermediate": [32],
        "attn_cfg": {"num_heads": [2], "rotary_emb_dim": [8], "window_size": [7]},
    },
    "equal widths": {
        "d_model": [16, 16],
        "attn_cfg": {"num_heads": [2, 2], "rotary_emb_dim": [8, 8], "window_size": [3, 3]},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(layout, tied, tmp_path):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **layout, tie_word_embeddings=tied)).eval()
    save_published_checkpoint(model, tmp_path / "model.pt")
    loaded = load_published_checkpoint(tmp_path / "model.pt")
    ids = torch.randint(0, 4, (2, 40))
    assert torch.equal(model(ids).logits, loaded(ids).logits)


def published_file(tmp_path, change):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    save_published_checkpoint(model, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("config"), "'model' or 'config' is missing"),
        (lambda c: c["config"].pop("d_model"), "config has no 'd_model'"),
        (lambda c: c["config"].update(arch_layout=["x1"]), "'x1' is not a stack"),
        (lambda c: c["model"].pop("lm_head.weight"), "tensor 'lm_head.weight' is missing"),
        (
            lambda c: c["model"].update(extra=torch.zeros(1)),
            "tensor 'extra' is unexpected",
        ),
        (lambda c: c["model"].update({"lm_head.weight": torch.zeros(7, 3)}), r"shape \(7, 3\), expected \(7, 16\)"),
        (
            lambda c: c["model"]["backbone.encoder.layers.0.mixer.bwd.in_proj.weight"].add_(1),
            "differ; only models with shared projections",
        ),
        (lambda c: c.update(config="text"), "'model' or 'config' is missing"),
        (lambda c: c.update(model=[1]), "'model' or 'config' is missing"),
        (lambda c: c["config"].update(d_model=16), "config is not a valid LDARNet configuration"),
        (lambda c: c["config"].update(attn_cfg=None), "config is not a valid LDARNet configuration"),
        (lambda c: c["config"].update(tie_embeddings=True), "tied in the config, but their weights differ"),
    ],
)
def test_an_inconsistent_file_is_an_error(change, message, tmp_path):
    def modify(content):
        content["model"] = {name: tensor.clone() for name, tensor in content["model"].items()}
        change(content)

    with pytest.raises(UserError, match=message):
        load_published_checkpoint(published_file(tmp_path, modify))


def test_missing_and_unreadable_files_are_errors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_published_checkpoint(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="not a readable PyTorch checkpoint"):
        load_published_checkpoint(tmp_path / "text.pt")


def test_code_in_a_pickle_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"model": Trap(), "config": {}}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match="not a readable PyTorch checkpoint"):
        load_published_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "trapped").exists()
