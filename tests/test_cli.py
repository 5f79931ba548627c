"""The `ldarnet` command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, __version__, doctor, load_published_checkpoint
from ldarnet.cli import COMMANDS
from ldarnet.ops import operations as all_operations
from tests.support.command import CommandResult, Run

SEQUENCE = "ACGTTTTTGGGNNNNACGACGTAGCTAGCATCGACTAC"


@pytest.fixture(scope="module")
def model() -> LDARNetForMaskedLM:
    torch.manual_seed(0)
    return LDARNetForMaskedLM(LDARNetConfig.preset("tiny")).eval()


@pytest.fixture
def folder(model: LDARNetForMaskedLM, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def assert_one_line_error(ended: CommandResult, *parts: str) -> None:
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert all(part in ended.err for part in parts), ended.err


def test_version(ldarnet: Run) -> None:
    assert ldarnet("--version") == (0, f"ldarnet {__version__}\n", "")


def test_doctor_selects_one_backend_for_every_op_on_every_device(ldarnet: Run) -> None:
    report = json.loads(ldarnet("doctor", "--json").out)
    assert ("cuda" in report["operations"]) == torch.cuda.is_available()
    for operations in report["operations"].values():
        assert operations.keys() == set(all_operations())
        for choices in operations.values():
            (selected,) = (choice for choice in choices if choice["selected"])
            assert not selected["unsupported_reason"]


@pytest.mark.parametrize("gpu", [False, True])
def test_doctor_suggests_a_command_for_a_missing_package(
    gpu: bool, ldarnet: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_version = metadata.version
    gpus = [{"name": "H200", "memory_gib": 139.0, "capability": "90"}] if gpu else []
    monkeypatch.setattr(doctor, "_torch", lambda: {"version": "2.9", "cuda": None, "gpus": gpus})

    def version(name: str) -> str:
        if name in ("mamba-ssm", "deepspeed"):
            raise metadata.PackageNotFoundError(name)
        return real_version(name)

    monkeypatch.setattr(metadata, "version", version)
    ended = ldarnet("doctor")
    assert ended.status == 0
    assert ('pip install --no-build-isolation "mamba-ssm==' in ended.out) == gpu
    assert bool(re.search(r"mamba-ssm +- .*; not needed without a GPU\n", ended.out)) == (not gpu)
    assert re.search(r"missing for train: deepspeed; \S+ -m pip install 'ldarnet\[train\]'", ended.out)
    assert "no problems found" not in ended.out


def test_doctor_reports_a_kernel_that_fails_to_import(
    ldarnet: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text('raise ImportError("undefined symbol: _ZN3c10")\n')
    information = tmp_path / "flash_attn-2.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    out = ldarnet("doctor").out
    assert "fails to import: ImportError: undefined symbol: _ZN3c10" in out
    assert "flash-attn is installed but fails to import: rebuild it" in out


def test_doctor_reports_the_cache_of_verified_kernels(
    ldarnet: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "Verified kernels: not cached, because LDARNET_KERNEL_CACHE=0\n" in ldarnet("doctor").out
    monkeypatch.delenv("LDARNET_KERNEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "ldarnet/kernels"
    folder.mkdir(parents=True)
    (folder / "ssd-triton-0123.json").write_text("{}")
    assert f"Verified kernels: 1, cached in {folder}\n" in ldarnet("doctor").out


def test_doctor_reports_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_nvidia_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert any("torch was built without CUDA" in line for line in doctor.examine()["advice"])


@pytest.mark.parametrize("of_a_run", [False, True])
def test_export_writes_a_folder_that_transformers_loads(
    of_a_run: bool,
    ldarnet: Run,
    model: LDARNetForMaskedLM,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = folder
    if of_a_run:
        source = tmp_path / "run"
        (source / "checkpoints").mkdir(parents=True)
        folder.rename(source / "checkpoints" / "step-2")
        (source / "checkpoints" / "pointers.json").write_text('{"latest": "step-3", "best": "step-2"}')
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    assert ldarnet("export", source, tmp_path / "out").status == 0
    assert "DS_ACCELERATOR" in os.environ  # otherwise DeepSpeed, which accelerate imports, prints a warning
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")([SEQUENCE], return_tensors="pt")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(again(**tokens).logits, model(**tokens).logits)


def test_convert_to_the_published_format_and_back(
    ldarnet: Run, model: LDARNetForMaskedLM, folder: Path, tmp_path: Path
) -> None:
    assert ldarnet("convert", folder, tmp_path / "published.pt").status == 0
    assert ldarnet("convert", tmp_path / "published.pt", tmp_path / "back").status == 0
    for again in (
        load_published_checkpoint(tmp_path / "published.pt"),
        LDARNetForMaskedLM.from_pretrained(tmp_path / "back"),
    ):
        weights = again.state_dict()
        assert weights.keys() == model.state_dict().keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_existing_outputs_are_not_overwritten(ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "there.pt").write_text("precious")
    assert_one_line_error(ldarnet("export", folder, folder), str(folder), "already exists")
    assert_one_line_error(ldarnet("convert", folder, tmp_path / "there.pt"), "there.pt", "exists already")
    assert (tmp_path / "there.pt").read_text() == "precious"


def test_a_path_without_a_model_is_reported(ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    assert_one_line_error(ldarnet("export", tmp_path / "none", tmp_path / "out"), str(tmp_path / "none"))
    assert_one_line_error(ldarnet("convert", tmp_path / "none.pt", tmp_path / "out"), str(tmp_path / "none.pt"))
    assert_one_line_error(ldarnet("convert", folder, tmp_path / "out"), ".pt")
    assert_one_line_error(ldarnet("convert", tmp_path / "a.pt", tmp_path / "b.pt"), "one of the two", "a model folder")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert_one_line_error(ldarnet("export", folder, tmp_path / "out"), "config.json", "'bert'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ['{"model_type": ', "[]", '{"model_type": "ldarnet", "d_model": [8]}', b"\xff"])
def test_a_damaged_config_is_reported(content: str | bytes, ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)
    assert_one_line_error(ldarnet("export", folder, tmp_path / "out"), str(folder / "config.json"), "again")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("pretrain", "training.zero_stage = 1  (at least 0, at most 3)  DeepSpeed ZeRO stage.  [may change on resume"),
        ("pretrain", "run.dir = (required)  Run folder, shared"),
        (
            "finetune",
            "evaluation.strands = 1  (1 or 2)  Number of strands to evaluate; 2 averages the probabilities over both.",
        ),
        ("finetune", "optimizer.betas = [0.9, 0.95]  AdamW betas, each in [0, 1)"),
        ("sweep", "resources.launcher = python  (python or deepspeed)  Launcher of each trial"),
        ("sweep", "search.asha = null  Early stopping"),
        ("ablate", "resources.pretrain.cpus = 1  (more than 0, at most 100000)  CPU cores per trial."),
        (
            "sweep",
            "search.asha.grace = 5  (at least 1, at most 1000000)  Minimum number of epochs before a trial can",
        ),
    ],
)
def test_every_setting_is_listed(program: str, line: str, ldarnet: Run) -> None:
    listed = ldarnet("settings", program).out.splitlines()
    assert len([one for one in listed if one.startswith(line)]) == 1
    assert all(" = " in one and one.endswith((".", "]")) for one in listed)


@pytest.mark.parametrize("size", [0, 100, 40_000])
def test_truncated_weights_are_reported(size: int, ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    os.truncate(folder / "model.safetensors", size)
    assert_one_line_error(ldarnet("export", folder, tmp_path / "out"), str(folder / "model.safetensors"), "truncated")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("lm_head.weight"), "missing tensor 'lm_head.weight'"),
        (lambda weights: weights.update(another=torch.zeros(1)), "unexpected tensor 'another'"),
    ],
)
def test_weights_that_do_not_match_the_config_are_reported(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, ldarnet: Run, folder: Path, tmp_path: Path
) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert_one_line_error(ldarnet("export", folder, tmp_path / "out"), str(folder / "model.safetensors"), message)


def test_half_precision_weights_are_exported_as_float32(ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    LDARNetForMaskedLM.from_pretrained(folder).bfloat16().save_pretrained(tmp_path / "half")
    assert ldarnet("export", tmp_path / "half", tmp_path / "out").status == 0
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


def test_damaged_checkpoint_pointers_are_reported(ldarnet: Run, tmp_path: Path) -> None:
    pointers = tmp_path / "checkpoints" / "pointers.json"
    pointers.parent.mkdir()
    pointers.write_text("{")
    assert_one_line_error(ldarnet("export", tmp_path, tmp_path / "out"), str(pointers), "damaged")


def test_the_parent_folder_of_the_output_is_created(ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    assert ldarnet("convert", folder, tmp_path / "new" / "er" / "x.pt").status == 0
    assert ldarnet("export", folder, tmp_path / "newest" / "out").status == 0
    assert (tmp_path / "new" / "er" / "x.pt").is_file()
    assert (tmp_path / "newest" / "out" / "config.json").is_file()
    (tmp_path / "file").write_text("x")
    for command in ("convert", "export"):
        ended = ldarnet(command, folder, tmp_path / "file" / "x.pt")
        assert_one_line_error(ended, f"{tmp_path / 'file'}: cannot be used as a folder")


def test_tokenize_prints_the_chunks_of_the_model(
    ldarnet: Run, model: LDARNetForMaskedLM, folder: Path, tmp_path: Path
) -> None:
    fasta = tmp_path / "two.fa"
    fasta.write_text(f">one some words\n{SEQUENCE[:30]}\n{SEQUENCE[30:]}\n>two\nacgtn\n")
    ended = ldarnet("tokenize", folder, fasta)
    assert ended.status == 0
    rows = [line.split("\t") for line in ended.out.splitlines()]
    for name, sequence in (("one", SEQUENCE), ("two", "acgtn")):
        chunks = [(int(start), int(end), bases) for contig, start, end, bases in rows if contig == name]
        assert "".join(bases for _, _, bases in chunks) == sequence
        assert all(sequence[start:end] == bases for start, end, bases in chunks)
    ids = torch.tensor(["ACGTN".index(base) for base in SEQUENCE])[None]
    with torch.no_grad():
        starts = model(ids).boundaries[0].mask[0].nonzero()[:, 0].tolist()
    assert [int(start) for contig, start, _, _ in rows if contig == "one"] == starts


def test_no_base_is_lost_between_windows(ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.fa").write_text(f">one\n{SEQUENCE * 9}\n")
    ended = ldarnet("tokenize", folder, tmp_path / "one.fa", "--window", 16)
    assert "".join(row.split("\t")[3] for row in ended.out.splitlines()) == SEQUENCE * 9


def test_a_missing_stage_is_an_error(ldarnet: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "one.fa").write_text(f">one\n{SEQUENCE}\n")
    assert_one_line_error(ldarnet("tokenize", folder, tmp_path / "one.fa", "--stage", 7), "stage 7", "only at stage 0")


def run_in_subprocess(*arguments: str, **variables: str) -> str:
    """Output of the command when it runs in a subprocess with additional environment variables."""
    command = [sys.executable, "-c", "from ldarnet.cli import main; main()", *arguments]
    environment = os.environ | variables
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ldarnet pre", ["pretrain", "predict"]),
        ("ldarnet pretrain --r", ["--ranks"]),
        ("ldarnet pretrain --config ldar", ["ldarnet-110m", "ldarnet-2m-yeast"]),
        ("ldarnet --v", ["--version"]),
    ],
)
def test_the_shell_completes_commands_options_and_packaged_configurations(words: str, expected: list[str]) -> None:
    position = str(len(words.split()) - 1)
    variables = {"_LDARNET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
    assert run_in_subprocess(**variables).split() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_shown_and_installed(shell: str, tmp_path: Path) -> None:
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    assert f"_LDARNET_COMPLETE=complete_{shell}" in run_in_subprocess("--show-completion", shell, **variables)
    run_in_subprocess("--install-completion", shell, **variables)
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(f"_LDARNET_COMPLETE=complete_{shell}" in text for text in texts)


def test_help_lists_every_command(ldarnet: Run) -> None:
    ended = ldarnet("--help")
    assert ended.status == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in ended.out] == []
    assert ldarnet() == ended


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, ldarnet: Run) -> None:
    ended = ldarnet(command, "--help")
    assert ended.status == 0
    assert ended.out.startswith(f"Usage: ldarnet {command} ")
    assert "{" not in ended.out


def test_a_missing_choice_is_a_one_line_error(ldarnet: Run) -> None:
    error = ldarnet("settings").err.splitlines()[-1]
    assert error.startswith(
        "error: Missing argument 'COMMAND'. Choose from: pretrain, finetune, sweep, ablate; see ldarnet"
    )


def test_usage_shows_required_and_optional_arguments(ldarnet: Run) -> None:
    assert ldarnet("predict", "--help").out.startswith("Usage: ldarnet predict [OPTIONS] MODEL FASTA\n")
    assert ldarnet("compare", "--help").out.startswith("Usage: ldarnet compare [OPTIONS] NAME=FOLDER...\n")
    assert ldarnet("tasks", "--help").out.startswith("Usage: ldarnet tasks [OPTIONS] [SUITE]\n")


def test_an_unknown_command_is_an_error(ldarnet: Run) -> None:
    ended = ldarnet("pretrian")
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == "error: No such command 'pretrian'; see ldarnet --help"
