"""The authors' checkpoint form, without their file: random models of several shapes, and files that are wrong."""

import pytest
import torch

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, load_published_checkpoint, save_published_checkpoint
from ldarnet.errors import UserError

LAYOUTS = {
    "one chunking": {},
    "two chunkings, every letter": {
        "arch_layout": ["m1T1", ["t1M1", ["M1T1"], "m1"], "T1m1"],
        "d_model": [16, 24, 32],
        "d_intermediate": [32, 32, 64],
        "attn_cfg": {"num_heads": [2, 3, 2], "rotary_emb_dim": [8, 4, 8], "window_size": [7, 5, -1]},
    },
    "one stack": {
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
def test_a_model_survives_the_published_form(layout, tied, tmp_path):
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny", **layout, tie_word_embeddings=tied)).eval()
    save_published_checkpoint(model, tmp_path / "model.pt")
    again = load_published_checkpoint(tmp_path / "model.pt")
    ids = torch.randint(0, 4, (2, 40))
    assert torch.equal(model(ids).logits, again(ids).logits)


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
        (lambda c: c.pop("config"), "holds no 'model' and 'config'"),
        (lambda c: c["config"].pop("d_model"), "its config has no 'd_model'"),
        (lambda c: c["config"].update(arch_layout=["x1"]), "'x1' is not a stack"),
        (lambda c: c["model"].pop("lm_head.weight"), "no tensor 'lm_head.weight'"),
        (lambda c: c["model"].update(extra=torch.zeros(1)), "no place in this architecture, among them 'extra'"),
        (lambda c: c["model"].update({"lm_head.weight": torch.zeros(7, 3)}), r"shape \(7, 3\), expected \(7, 16\)"),
        (
            lambda c: c["model"]["backbone.encoder.layers.0.mixer.bwd.in_proj.weight"].add_(1),
            "differ; only shared projections",
        ),
        (lambda c: c.update(config="text"), "holds no 'model' and 'config'"),
        (lambda c: c.update(model=[1]), "holds no 'model' and 'config'"),
        (lambda c: c["config"].update(d_model=16), "its config does not describe a model"),
        (lambda c: c["config"].update(attn_cfg=None), "its config does not describe a model"),
        (lambda c: c["config"].update(tie_embeddings=True), "are one matrix, and holds two different ones"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(change, message, tmp_path):
    def unshared(content):
        content["model"] = {name: tensor.clone() for name, tensor in content["model"].items()}
        change(content)

    with pytest.raises(UserError, match=message):
        load_published_checkpoint(published_file(tmp_path, unshared))


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_published_checkpoint(tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="not a readable PyTorch checkpoint"):
        load_published_checkpoint(tmp_path / "text.pt")


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    torch.save({"model": Trap(), "config": {}}, tmp_path / "trap.pt")
    with pytest.raises(UserError, match="not a readable PyTorch checkpoint"):
        load_published_checkpoint(tmp_path / "trap.pt")
    assert not (tmp_path / "trapped").exists()
