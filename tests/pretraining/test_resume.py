"""A run that is stopped or killed and then resumed equals an uninterrupted run bit for bit."""

import errno
import fcntl
import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from ldarnet import LDARNetForMaskedLM
from ldarnet.alphabet import MASK
from ldarnet.config import load_config
from ldarnet.data import Masking, ShardSet, validation_batches
from ldarnet.errors import UserError
from ldarnet.pretraining.run_folder import open_run_folder
from ldarnet.runtime.checkpoint import CheckpointStore, read_state, verify
from ldarnet.runtime.checkpoint_files import check_fits
from ldarnet.runtime.deepspeed_internals import ADAMW_MOMENTS
from ldarnet.runtime.metrics_file import read_metrics
from ldarnet.runtime.run_dir import lock_run_dir
from tests.support.ranks import LEARNING, WORKERS, write_config

SEVERAL_RUNS = WORKERS / "several_runs.py"
TIMING_KEYS = {
    "seconds",
    "bases_per_second",
    "flops_per_second",
    "checkpoint_stall_seconds",
    "phase_share",
    "data_wait",
    "memory",
}


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, shards):
    return write_config(tmp_path_factory.mktemp("resume"), shards, **LEARNING)


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def runs(request, config_file, run_ranks):
    """Folder with an uninterrupted run, a run stopped after 6 of 10 steps and resumed, and a run only stopped."""
    folder = config_file.parent / f"{request.param}-ranks"
    resumed, stopped = f"run.dir={folder}/resumed", f"run.dir={folder}/stopped"
    run_ranks(
        request.param,
        f"{config_file} run.dir={folder}/unbroken",
        f"{config_file} {stopped} training.stop_after=6",
        f"{config_file} {resumed} training.stop_after=6",
        f"{config_file} {resumed}",
        script=SEVERAL_RUNS,
    ).succeed()
    return folder


def tensors(run, step):
    checkpoint = run / "checkpoints" / f"step-{step:08d}"
    return load_file(checkpoint / "model.safetensors") | load_file(checkpoint / "optimizer.safetensors")


def logged(run):
    return [{key: line[key] for key in line if key not in TIMING_KEYS} for line in read_metrics(run / "metrics.jsonl")]


def validation_losses(run):
    return [
        line[key] for line in logged(run) if line["split"] == "valid" for key in ("mlm_loss", "mask_loss", "copy_loss")
    ]


def assert_equal_runs(run, other):
    first, second = tensors(run, 10), tensors(other, 10)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    assert logged(run) == logged(other)


def test_stop_and_resume_is_exact(runs):
    assert [line["step"] for line in logged(runs / "unbroken") if line["split"] == "train"] == list(range(1, 11))
    assert_equal_runs(runs / "unbroken", runs / "resumed")


def test_chunk_counts_differ_between_windows(runs):
    """With equal chunk counts, all ranks would have equal work, and the tests above would prove little."""
    chunks = [line["bases_per_chunk"][0] for line in logged(runs / "unbroken")]
    assert len({round(value, 1) for value in chunks}) > 5
    assert sum(1.2 < value < 32 for value in chunks) > 5


@pytest.mark.slow
def test_stop_and_resume_is_exact_in_stage_3(config_file, run_ranks):
    folder = config_file.parent / "stage-3"
    unbroken, resumed = (
        f"{config_file} training.zero_stage=3 run.dir={folder}/{name}" for name in ("unbroken", "resumed")
    )
    run_ranks(2, unbroken, f"{resumed} training.stop_after=6", resumed, script=SEVERAL_RUNS).succeed()
    assert_equal_runs(folder / "unbroken", folder / "resumed")


@pytest.mark.slow
def test_muon_resumes_exactly_and_on_other_ranks(config_file, run_ranks):
    """Resume on 2 ranks bit for bit, and on 1 rank in another ZeRO stage up to the rounding of bf16 products."""
    folder = config_file.parent / "muon"
    unbroken, resumed, moved = (
        f"{config_file} optimizer.name=muon run.dir={folder}/{name}" for name in ("unbroken", "resumed", "moved")
    )
    stop = "training.stop_after=6"
    run_ranks(2, unbroken, f"{resumed} {stop}", resumed, f"{moved} {stop}", script=SEVERAL_RUNS).succeed()
    assert_equal_runs(folder / "unbroken", folder / "resumed")
    names = tensors(folder / "unbroken", 10).keys()
    weight = "model.backbone.main.main.layers.0.mixer.in_proj.weight"
    assert f"momentum_buffer.{weight}" in names and f"exp_avg.{weight}" not in names
    assert "exp_avg_sq.lm_head.weight" in names and "momentum_buffer.lm_head.weight" not in names
    run_ranks(1, f"{moved} training.zero_stage=3", script=SEVERAL_RUNS).succeed()
    losses, others = (
        [line["loss"] for line in logged(folder / name) if line["split"] == "train"] for name in ("unbroken", "moved")
    )
    assert losses[:6] == others[:6]
    assert others[6:] == pytest.approx(losses[6:], rel=1e-4)


def test_checkpoint_content(runs):
    weights = LDARNetForMaskedLM.from_pretrained(runs / "unbroken/checkpoints/step-00000010")
    names = dict(weights.named_parameters())
    saved = tensors(runs / "unbroken", 10)
    assert saved.keys() == names.keys() | {f"{moment}.{name}" for moment in ADAMW_MOMENTS for name in names}
    assert all(saved[name].equal(parameter) for name, parameter in names.items())
    assert any(saved[f"exp_avg_sq.{name}"].any() for name in names)
    state = read_state(runs / "unbroken/checkpoints/step-00000010")
    assert (state.step, state.total_steps, state.position) == (10, 10, 80)


def test_validation_matches_the_saved_model(config_file, runs):
    config = load_config(config_file)
    model = LDARNetForMaskedLM.from_pretrained(runs / "unbroken/checkpoints/step-00000010").eval()
    shards = ShardSet.open(config.data.shards)
    (batch,) = validation_batches(
        shards, "valid", length=64, max_windows=10, batch=10, rank=0, world=1, masking=Masking(), max_n_run=100
    )
    labels = batch.labels.long()
    out = model(batch.input_ids.long(), labels=labels)
    masked = batch.input_ids == MASK
    logged_last = [line for line in logged(runs / "unbroken") if line["split"] == "valid"][-1]
    mask_loss = torch.nn.functional.cross_entropy(out.logits[masked], labels[masked])
    shares = torch.bincount(labels[masked], minlength=4) / masked.sum()
    expected = {
        "mlm_loss": out.mlm_loss.item(),
        "mask_loss": mask_loss.item(),
        "composition_loss": torch.distributions.Categorical(shares).entropy().item(),
        "accuracy": (out.logits[masked].argmax(-1) == labels[masked]).float().mean().item(),
        "ratio_loss": out.ratio_loss.item(),
        "scored": int((batch.labels != -100).sum()),
        "windows": 10,
    }
    assert {key: logged_last[key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_retention_keeps_latest_and_best(runs):
    store = CheckpointStore(runs / "unbroken", keep=2)
    pointers = json.loads((store.folder / "pointers.json").read_text())
    losses = {line["step"]: line["mlm_loss"] for line in logged(runs / "unbroken") if line["split"] == "valid"}
    best = min(losses, key=losses.__getitem__)
    assert pointers == {"latest": "step-00000010", "best": f"step-{best:08d}"}
    assert {path.name for path in store.complete()} == {"step-00000008", "step-00000010", f"step-{best:08d}"}


@pytest.mark.slow
def test_elastic_resume_keeps_the_window_order(config_file, runs, run_ranks):
    """Resume on 2 ranks instead of 1, or vice versa, and with other ZeRO stages, in the same window order."""
    world = 3 - int(runs.name[0])
    moved = [runs / f"moved-to-stage-{stage}" for stage in (0, 2)]
    arguments = []
    for stage, folder in zip((0, 2), moved, strict=True):
        shutil.copytree(runs / "stopped", folder)
        arguments.append(f"{config_file} run.dir={folder} training.zero_stage={stage}")
    run_ranks(world, *arguments, script=SEVERAL_RUNS).succeed()
    unbroken = [line["loss"] for line in logged(runs / "unbroken") if line["split"] == "train"]
    for folder in moved:
        losses = [line["loss"] for line in logged(folder) if line["split"] == "train"]
        assert losses[:6] == unbroken[:6]
        assert losses[6:] == pytest.approx(unbroken[6:], rel=1e-5)
        assert validation_losses(folder) == pytest.approx(validation_losses(runs / "unbroken"), rel=1e-5)


@pytest.mark.slow
def test_killed_run_resumes_exactly(config_file, runs, run_ranks):
    world, folder = int(runs.name[0]), runs / "killed"
    arguments = ("--config", config_file, f"run.dir={folder}", "checkpoint.every=3")
    job = run_ranks(world, *arguments, "training.steps=10")
    deadline = time.monotonic() + 120
    while len(read_metrics(folder / "metrics.jsonl")) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    job.kill()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "cut sh')
    assert not (folder / "checkpoints/step-00000010").exists()
    step = read_state(CheckpointStore(folder, keep=2).latest()).step
    assert step in (3, 6, 9)
    output = run_ranks(world, *arguments).succeed()
    assert f"resuming from step {step}: " in output
    assert_equal_runs(runs / "unbroken", folder)


def test_finished_run_is_not_changed(config_file, runs, run_ranks):
    if runs.name != "1-ranks":
        pytest.skip("tested with one rank; the number of ranks makes no difference")
    before = (runs / "unbroken/metrics.jsonl").read_text()
    output = run_ranks(1, "--config", config_file, f"run.dir={runs}/unbroken").succeed()
    again = run_ranks(1, "--config", runs / "unbroken/config.yaml").succeed()
    assert "the run is already finished" in again
    assert "exported model" in output
    assert "exported model" in again
    assert (runs / "unbroken/metrics.jsonl").read_text() == before


def test_user_errors_end_all_ranks_with_one_line(config_file, runs, run_ranks):
    if runs.name != "2-ranks":
        pytest.skip("needs two ranks")
    results = run_ranks(2, "--config", config_file, f"run.dir={runs}/unbroken", "optimizer.lr=0.1").wait()
    assert [status for status, _, _ in results] == [1, 1]
    (line,) = results[0][2].splitlines()
    assert line.startswith("error: ")
    assert "optimizer.lr: 0.02 -> 0.1" in line
    assert results[1][2] == ""


@pytest.fixture
def finished(runs, tmp_path):
    """Copy of a finished run folder that a test may modify."""
    return shutil.copytree(runs / "unbroken", tmp_path / "run")


def test_other_configuration_is_rejected(config_file, finished):
    store = CheckpointStore(finished, keep=2)
    config = load_config(config_file, [f"run.dir={finished}", "data.length=32"])
    with pytest.raises(UserError, match=r"data\.length: 64 -> 32.*another run\.dir, or delete"):
        open_run_folder(config, store, "")
    assert open_run_folder(load_config(config_file, [f"run.dir={finished}"]), store, "").finished


def test_changed_file_is_rejected(config_file, finished):
    weights = finished / "checkpoints/step-00000010/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: SHA-256 differs"):
        open_run_folder(load_config(config_file, [f"run.dir={finished}"]), CheckpointStore(finished, keep=2), "")
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: file is missing"):
        verify(weights.parent)


def test_incomplete_checkpoint_is_ignored(finished):
    store = CheckpointStore(finished, keep=2)
    shutil.copytree(finished / "checkpoints/step-00000010", finished / "checkpoints/step-00000011")
    (finished / "checkpoints/step-00000011/manifest.json").unlink()
    assert store.latest() == finished / "checkpoints/step-00000010"


def test_other_architecture_and_other_data_are_rejected(config_file, finished):
    checkpoint = finished / "checkpoints/step-00000010"
    fingerprint = read_state(checkpoint).fingerprint
    other = load_config(config_file, ["model.d_model=[16, 32]"])
    with pytest.raises(UserError, match=r"architecture differs from .* \(d_model: \[16, 24\] -> \[16, 32\]\)"):
        check_fits(checkpoint, LDARNetForMaskedLM(other.model.build({})), fingerprint)
    same = LDARNetForMaskedLM(load_config(config_file).model.build({"ssd": "torch"}))
    check_fits(checkpoint, same, fingerprint)
    with pytest.raises(UserError, match="trained on a different data set"):
        check_fits(checkpoint, same, "0" * 64)


def test_file_system_without_locks_is_accepted(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    lock_run_dir(tmp_path / "run").close()


def test_run_folder_is_locked(tmp_path):
    with lock_run_dir(tmp_path / "run"), pytest.raises(UserError, match="in use by another training run"):
        lock_run_dir(tmp_path / "run")
    lock_run_dir(tmp_path / "run").close()
