"""Exported models load without this package by `trust_remote_code=True`, and compute the same function."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from ldarnet import (
    DNATokenizer,
    LDARNetConfig,
    LDARNetForCausalLM,
    LDARNetForMaskedLM,
    LDARNetForSequenceClassification,
    LDARNetForTokenClassification,
    LDARNetModel,
)
from ldarnet.model import load_model, write_model
from ldarnet.model.chunking import chunking_methods
from ldarnet.model.hub import AUTO_CLASSES, missing_in_reference

NESTED = {
    "arch_layout": ["m1", ["M1t1", ["M1"], "m1"], "m1"],
    "d_model": [16, 24, 32],
    "d_intermediate": [0, 32, 32],
    "attn_cfg": {"num_heads": [2, 2, 2], "rotary_emb_dim": [8, 8, 8], "window_size": [7, 5, -1]},
}
STACK = {
    "arch_layout": ["m1T1"],
    "d_model": [16],
    "d_intermediate": [32],
    "attn_cfg": {"num_heads": [2], "rotary_emb_dim": [8], "window_size": [7]},
}
CASES = {
    "published": (LDARNetForMaskedLM, {}),
    "backbone": (LDARNetModel, {}),
    "tied": (LDARNetForMaskedLM, {"tie_word_embeddings": True}),
    "three stages": (LDARNetForMaskedLM, NESTED),
    "top_k": (LDARNetForMaskedLM, NESTED | {"chunking": {"selection": "top_k", "similarity": "forward"}}),
    "frozen": (LDARNetForMaskedLM, {"chunking": {"method": "frozen"}}),
    "grid": (LDARNetForMaskedLM, {"chunking": {"method": "grid"}}),
    "none": (LDARNetForMaskedLM, {"chunking": {"method": "none", "residual": "none"}}),
    "file": (LDARNetForMaskedLM, {"chunking": {"method": "file"}}),
    "outside": (LDARNetForMaskedLM, NESTED | {"chunking": {"mask_protection": "outside", "smoothing": "none"}}),
    "protected": (
        LDARNetForMaskedLM,
        {"chunking": {"mask_protection": "boundaries", "residual": "masked", "smoothing": "mirrored"}},
    ),
    "hinge": (LDARNetForMaskedLM, {"chunking": {"ratio_loss": "hinge"}, "target_ratio": 2.0}),
    "causal": (LDARNetForCausalLM, {"causal": True}),
    "single stack": (LDARNetForMaskedLM, STACK),
    "k-mers": (LDARNetForMaskedLM, STACK | {"tokenizer": {"method": "kmers", "k": 3}}),
    "classes": (LDARNetForSequenceClassification, {"num_labels": 3}),
    "value": (LDARNetForSequenceClassification, {"num_labels": 1}),
    "classes of bases": (LDARNetForTokenClassification, {"num_labels": 3}),
    "labels of bases": (
        LDARNetForTokenClassification,
        {"num_labels": 2, "problem_type": "multi_label_classification"},
    ),
}
AUTO = {name: auto for auto, name in AUTO_CLASSES.items()}
WITHOUT_PACKAGE = """
import json, sys
from pathlib import Path
sys.modules["ldarnet"] = None  # importing it raises ImportError
import torch, transformers
from safetensors.torch import load_file, save_file

for name, auto in json.loads(sys.argv[2]).items():
    folder = Path(sys.argv[1], name)
    model = getattr(transformers, auto).from_pretrained(folder / "model", trust_remote_code=True).eval()
    assert "transformers_modules" in type(model).__module__
    inputs = load_file(folder / "inputs.safetensors")
    out = model(**inputs, output_hidden_states=True, output_boundaries=True)
    found = {key: value.detach().contiguous() for key, value in out.items() if key != "hidden_states"}
    found |= {f"hidden_{i}": state.detach().contiguous() for i, state in enumerate(out.hidden_states)}
    if "loss" in found:
        model.zero_grad()
        out.loss.backward()
        found |= {f"gradient_{key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    save_file(found, folder / "outputs.safetensors")
"""


def run_without_package(program: str, arguments: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True, check=False)


def build(kind, changes):
    torch.manual_seed(0)
    model = kind(LDARNetConfig.preset("tiny", **changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:  # as far from the initialization as after training
                weight.add_(0.2 * torch.randn_like(weight))
    return model


def inputs_of(model) -> dict[str, torch.Tensor]:
    """A batch with padding of every kind and masked bases, and labels."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 6, (3, 150), generator=generator)
    if model.config.tokenizer is not None:
        ids[:, ::3] = torch.randint(7, model.config.vocab_size, (3, 50), generator=generator)
    ids[1, 90:] = ids[2, :10] = ids[2, 30:40] = 6
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(150) < 140).long().expand(3, -1).contiguous()}
    if model.config.chunking["method"] == "file":
        inputs["boundaries"] = torch.rand(3, 150, generator=generator) < 0.3
    classes = model.config.num_labels
    match model:
        case LDARNetForMaskedLM() | LDARNetForCausalLM():
            inputs["labels"] = ids.masked_fill(ids == 6, -100)
        case LDARNetForSequenceClassification():
            inputs["labels"] = torch.tensor([0, 2, 1]) if classes > 1 else torch.tensor([0.5, -1.0, 2.0])
        case LDARNetForTokenClassification() if classes == 3:
            inputs["labels"] = torch.randint(0, 3, ids.shape, generator=generator)
        case LDARNetForTokenClassification():
            inputs["labels"] = torch.randint(0, 2, (*ids.shape, classes), generator=generator).float()
    return inputs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the models of all cases, and what they return in a process without this package."""
    folder = tmp_path_factory.mktemp("exports")
    for name, (kind, changes) in CASES.items():
        (folder / name).mkdir()
        model = build(kind, changes)
        write_model(model, folder / name / "model")
        save_file(inputs_of(model), folder / name / "inputs.safetensors")
    autos = {name: AUTO[kind.__name__] for name, (kind, _) in CASES.items()}
    result = run_without_package(WITHOUT_PACKAGE, [str(folder), json.dumps(autos)], tmp_path_factory.mktemp("cache"))
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", CASES)
def test_the_reference_code_computes_what_the_package_computes(outputs: Path, name: str) -> None:
    model = build(*CASES[name])
    inputs, found = inputs_of(model), load_file(outputs / name / "outputs.safetensors")
    expected = model(**inputs, output_hidden_states=True, output_boundaries=True)
    for key in ("logits", "last_hidden_state", "boundary_probability", "loss"):
        if key in expected:
            torch.testing.assert_close(found[key], expected[key].detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(found["boundary_mask"], expected.boundary_mask)
    assert found["boundary_mask"].shape[-1] == model.config.num_stages - 1
    assert sum(key.startswith("hidden_") for key in found) == len(expected.hidden_states)
    for number, state in enumerate(expected.hidden_states):
        length = found[f"hidden_{number}"].shape[1]
        assert not state[:, length:].any()
        torch.testing.assert_close(found[f"hidden_{number}"], state[:, :length].detach(), rtol=1e-4, atol=3e-5)
    if "loss" in expected:
        expected.loss.backward()
        gradients = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
        assert {f"gradient_{key}" for key in gradients} == {key for key in found if key.startswith("gradient_")}
        for key, gradient in gradients.items():
            torch.testing.assert_close(
                found[f"gradient_{key}"], gradient, rtol=1e-3, atol=1e-6 + 1e-4 * gradient.abs().max().item()
            )


def test_the_reference_code_refuses_other_methods(tmp_path: Path) -> None:
    """The code, the model card and `missing_in_reference` agree on what is supported."""
    missing = {}
    for method in chunking_methods():
        model = build(LDARNetForMaskedLM, {"chunking": {"method": method}})
        missing[method] = missing_in_reference(model.config)
        write_model(model, tmp_path / method)
        card = (tmp_path / method / "README.md").read_text()
        assert ("trust_remote_code=True" in card) == (missing[method] is None)
        assert (missing[method] or method) in card
    program = """
import json, sys
sys.modules["ldarnet"] = None
from transformers import AutoConfig, AutoModelForMaskedLM
refused = {}
for method in sys.argv[1:]:
    config = AutoConfig.from_pretrained(method, trust_remote_code=True)
    try:
        AutoModelForMaskedLM.from_config(config, trust_remote_code=True)
    except ValueError as error:
        refused[method] = str(error)
print(json.dumps(refused))
"""
    result = run_without_package(program, list(missing), tmp_path)
    assert result.returncode == 0, result.stderr
    reason = "chunking: {}, phase=fixed, needs the package ldarnet; install and import it"
    expected = {method: reason.format(method) for method, lacking in missing.items() if lacking is not None}
    assert json.loads(result.stdout.splitlines()[-1]) == expected
    assert sorted(expected) == ["bpe", "entropy", "permuted", "random", "swapped"]


def test_a_random_phase_is_missing() -> None:
    config = LDARNetConfig.preset("tiny", chunking={"method": "grid", "phase": "random"})
    assert missing_in_reference(config) == "chunking method grid with phase random"


def test_tokenizer_pipelines_and_new_heads_work_without_the_package(tmp_path: Path) -> None:
    model = build(LDARNetForMaskedLM, {})
    write_model(model, tmp_path / "model")
    program = f"""
import sys, torch
sys.modules["ldarnet"] = None
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder = {str(tmp_path / "model")!r}
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
batch = tokenizer(["ACGTNacgtRy[MASK]", "GA"], padding=True, return_tensors="pt")
print(batch["input_ids"].tolist(), batch["attention_mask"].tolist())
model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()
fill = pipeline("fill-mask", model=model, tokenizer=tokenizer)
print([guess["token_str"] for guess in fill("ACGT[MASK]ACG", targets=["A", "C", "G", "T"])])
classifier = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, num_labels=1)
classifier(**batch, labels=torch.tensor([0.5, 1.0])).loss.backward()
print(classifier.classifier.weight.std().item() < 0.1, classifier.model.embeddings.weight.grad.any().item())
classifier.save_pretrained("saved")
again = AutoModelForSequenceClassification.from_pretrained("saved", trust_remote_code=True).eval()
print(torch.equal(again(**batch).logits, classifier.eval()(**batch).logits))
"""
    result = run_without_package(program, [], tmp_path)
    assert result.returncode == 0, result.stderr
    batch = DNATokenizer()(["ACGTNacgtRy[MASK]", "GA"], padding=True)
    lines = [line for line in result.stdout.splitlines() if line.startswith(("[[", "['", "True", "False"))]
    assert lines[0] == f"{batch['input_ids']} {batch['attention_mask']}"
    assert sorted(json.loads(lines[1].replace("'", '"'))) == ["A", "C", "G", "T"]
    assert lines[2:] == ["True True", "True"]
    saved = load_model(tmp_path / "saved", LDARNetForSequenceClassification)
    assert saved.config.num_labels == 1


def test_the_package_runs_its_own_code(tmp_path: Path) -> None:
    """Neither `trust_remote_code` nor ``auto_map`` makes the package import the code of a folder."""
    write_model(build(LDARNetForMaskedLM, {}), tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for trust in (None, False, True):
            assert type(AutoConfig.from_pretrained(tmp_path / "model", trust_remote_code=trust)) is LDARNetConfig
            assert type(AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=trust)) is LDARNetModel
            model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", trust_remote_code=trust)
            assert type(model) is LDARNetForMaskedLM
    assert not hasattr(model.config, "auto_map")
