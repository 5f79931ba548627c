"""`ldarnet verify` of runs, checkpoints, exports and shard sets; commands refuse damaged and non-finite models."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, LDARNetForSequenceClassification
from ldarnet.config import FinetuneConfig
from ldarnet.config.loading import load_config
from ldarnet.errors import UserError
from ldarnet.finetuning.classifier import build_classifier
from ldarnet.io.manifest import write_manifest
from ldarnet.model import write_model
from sharding.build import build


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A pretraining run with two checkpoints and an export, and a fine-tuning run with one fold."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))
    for name in ("run/checkpoints/step-00000001", "run/checkpoints/step-00000002", "run/export"):
        write_model(model, folder / name)
    (folder / "run/checkpoints/pointers.json").write_text('{"latest": "step-00000002", "best": "step-00000001"}')
    write_model(LDARNetForSequenceClassification(LDARNetConfig.preset("tiny")), folder / "classifier/fold0/best")
    return folder


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def fasta(tmp_path) -> Path:
    (tmp_path / "some.fa").write_text(">one\nACGTACGTAACC\n>two\nGGGTTTACGACG\n")
    return tmp_path / "some.fa"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "files"),
    [("run", 21), ("run/checkpoints/step-00000002", 7), ("run/export", 7), ("classifier", 7), (".", 28)],
)
def test_an_undamaged_folder_is_ok(place, files, made, ldarnet):
    status, out, err = ldarnet("verify", made / place)
    assert (status, err) == (0, "")
    assert f"OK ({files} files, " in out


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("place", "damaged"),
    [
        ("run", "run/checkpoints/step-00000001"),
        ("run", "run/export"),
        ("run/export", "run/export"),
        ("classifier", "classifier/fold0/best"),
    ],
)
def test_every_damaged_file_is_one_line(place, damaged, name, copy, ldarnet):
    flip(copy / damaged / name)
    (copy / damaged / "tokenizer_config.json").unlink()
    status, _, err = ldarnet("verify", copy / place)
    assert status == 1
    assert err.splitlines() == [
        f"error: {copy / damaged / file}: {problem}; restore it, or write or download the folder again"
        for file, problem in (
            (name, "SHA-256 differs from manifest.json, so the file is damaged"),
            ("tokenizer_config.json", "file is missing"),
        )
    ]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"files": {}}', '{"files": {"../x": {"size": 1, "sha256": ""}}}'])
def test_a_damaged_manifest_is_one_line(content, copy, ldarnet):
    (copy / "run/export/manifest.json").write_text(content)
    status, _, err = ldarnet("verify", copy / "run")
    assert status == 1
    assert err.count("\n") == 1
    assert f"{copy / 'run/export/manifest.json'}: damaged" in err


def test_models_without_hashes_are_listed(copy, ldarnet):
    (copy / "run/export/manifest.json").unlink()
    status, out, _ = ldarnet("verify", copy / "run")
    assert status == 0
    assert "export/model.safetensors: not verified, because there is no manifest.json beside it" in out
    status, _, err = ldarnet("verify", copy / "run/export")
    assert status == 1
    assert err.count("\n") == 1
    assert "nothing to verify" in err


def test_leftovers_of_interrupted_writes_are_ignored(copy, ldarnet):
    (copy / "run/.export.partial").mkdir()
    (copy / "run/.export.partial/manifest.json").write_text("{")
    assert ldarnet("verify", copy / "run")[0] == 0


def test_a_shard_set_is_recognized(fasta, tmp_path, ldarnet):
    build(tmp_path / "set", [fasta])
    status, out, _ = ldarnet("verify", tmp_path / "set", "--workers", 1)
    assert status == 0
    assert "bases verified" in out
    for place in (tmp_path, tmp_path / "nothing"):
        if place == tmp_path:
            (tmp_path / "set/index.json").rename(tmp_path / "elsewhere")
        status, _, err = ldarnet("verify", place)
        assert (status, err.count("\n")) == (1, 1)


@pytest.mark.parametrize("place", ["run", "run/checkpoints/step-00000001"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_export_and_tokenize_refuse_a_damaged_checkpoint(name, place, copy, fasta, tmp_path, ldarnet):
    flip(copy / "run/checkpoints/step-00000001" / name)
    for command in (("export", copy / place, tmp_path / "out"), ("tokenize", copy / place, fasta)):
        status, out, err = ldarnet(*command)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert f"{name}: SHA-256 differs" in err
    assert not (tmp_path / "out").exists()


def test_predict_refuses_a_damaged_classifier(copy, fasta, tmp_path, ldarnet):
    assert ldarnet("predict", copy / "classifier/fold0", fasta)[0] == 0
    flip(copy / "classifier/fold0/best/model.safetensors")
    status, out, err = ldarnet("predict", copy / "classifier/fold0", fasta, "--out", tmp_path / "out.tsv")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize("place", ["run", "run/checkpoints/step-00000001", "run/export"])
def test_fine_tuning_refuses_a_damaged_checkpoint(place, copy):
    overrides = ["data.train=my.csv", f"checkpoint={copy / place}", f"run.dir={copy / 'new'}"]
    config = load_config("classify", overrides, schema=FinetuneConfig)
    build_classifier(config, ["no", "yes"], 40)
    for folder in ("run/checkpoints/step-00000001", "run/export"):
        flip(copy / folder / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors: SHA-256 differs from manifest.json"):
        build_classifier(config, ["no", "yes"], 40)


def change_weights(folder: Path, name: str, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[name].fill_(value)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_manifest(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_predict_never_writes_non_finite_probabilities(value, copy, fasta, tmp_path, ldarnet):
    change_weights(copy / "classifier/fold0/best", "classifier.weight", value)
    change_weights(copy / "classifier/fold0/best", "model.backbone.decoder.norm.weight", 3e38)
    for out in ((), ("--out", tmp_path / "out.tsv")):
        status, printed, err = ldarnet("predict", copy / "classifier/fold0", fasta, *out)
        assert (status, printed, err.count("\n")) == (1, "", 1)
        assert "NaN or infinit" in err
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_tokenize_never_prints_chunks_of_a_non_finite_model(value, copy, fasta, tmp_path, ldarnet):
    change_weights(copy / "run/export", "model.backbone.router.q_proj.weight", value)
    for out in ((), ("--out", tmp_path / "out.tsv")):
        status, printed, err = ldarnet("tokenize", copy / "run/export", fasta, *out)
        assert (status, printed, err.count("\n")) == (1, "", 1)
        assert "NaN or infinit" in err
    assert not (tmp_path / "out.tsv").exists()


def test_a_published_checkpoint_is_not_written_from_damaged_weights(copy, tmp_path, ldarnet):
    flip(copy / "run/export/model.safetensors")
    status, _, err = ldarnet("convert", copy / "run/export", tmp_path / "out.pt")
    assert (status, err.count("\n")) == (1, 1)
    assert not (tmp_path / "out.pt").exists()
    assert json.loads((copy / "run/export/manifest.json").read_text())["files"]
