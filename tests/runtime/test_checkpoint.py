"""A checkpoint is complete or absent, whatever happens while it is written."""

import errno
import json
import threading

import fsspec
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ldarnet import LDARNetConfig, LDARNetForMaskedLM, __version__
from ldarnet.config import load_config
from ldarnet.errors import TransientError, UserError
from ldarnet.io import manifest
from ldarnet.pretraining.async_checkpoint import CheckpointWriter, copy_missing
from ldarnet.pretraining.mirror import Mirror
from ldarnet.pretraining.run_folder import open_run_folder
from ldarnet.runtime import checkpoint_files as contents
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState, read_state, verify
from ldarnet.runtime.checkpoint_files import CheckpointContents, code_commit


class Run:
    """Checkpoint writer of a run and the messages that it logs."""

    def __init__(self, config_file, folder, *overrides):
        self.config = load_config(config_file, [f"run.dir={folder}", *overrides])
        self.store = CheckpointStore(folder, self.config.checkpoint.keep)
        self.logged = []
        self.writer = CheckpointWriter(self.config, self.store, self.logged.append)
        torch.manual_seed(0)
        self.model = LDARNetForMaskedLM(LDARNetConfig.preset("tiny"))

    def submit(self, step, best_step=None):
        weights = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        state = TrainingState(step, 10, 8 * step, 0, FINGERPRINT, best_step=best_step)
        self.writer.submit(
            CheckpointContents(weights, {"exp_avg.a": torch.ones(3)}, self.model.config, self.config, state)
        )

    def write(self, step, best_step=None):
        self.submit(step, best_step)
        return self.writer.wait()

    def steps(self):
        return [int(path.name[-8:]) for path in self.store.complete()]

    def open(self):
        return open_run_folder(self.config, self.store, FINGERPRINT)


@pytest.fixture
def run(config_file, tmp_path):
    return Run(config_file, tmp_path / "run", "checkpoint.keep=2")


def contents_of(run, weights, wait):
    state = TrainingState(1, 10, 8, 0, FINGERPRINT)
    return CheckpointContents(weights, {"exp_avg.a": torch.ones(3)}, run.model.config, run.config, state, wait)


def test_a_checkpoint_is_written_after_its_tensors_are_copied(run):
    weights = {"a": torch.zeros(3)}
    run.writer.submit(contents_of(run, weights, wait=lambda: weights["a"].fill_(1)))
    assert run.writer.wait() is None
    assert load_file(run.store.path(1) / "model.safetensors")["a"].equal(torch.ones(3))


def test_a_failed_copy_is_reported(run):
    def fail():
        raise RuntimeError("CUDA error")

    run.writer.submit(contents_of(run, {"a": torch.zeros(3)}, wait=fail))
    assert "RuntimeError: CUDA error" in str(run.writer.wait())
    assert run.steps() == []
    assert run.logged[0].startswith("checkpoint of step 1 not written: ")


def test_complete_checkpoints_appear_and_old_ones_are_deleted(run):
    for step in (1, 2, 3, 4, 5):
        assert run.write(step, best_step=min(step, 2)) is None
        verify(run.store.path(step))
    assert run.steps() == [2, 4, 5]
    assert run.store.best() == run.store.path(2)
    assert sorted(path.name for path in run.store.folder.iterdir() if path.is_dir()) == [
        path.name for path in run.store.complete()
    ]


def test_checkpoint_content(run):
    run.write(3)
    folder = run.store.path(3)
    state = read_state(folder)
    assert (state.step, state.position, state.fingerprint) == (3, 24, FINGERPRINT)
    assert (state.code_version, state.commit) == (__version__, code_commit())
    assert load_config(folder / "config.yaml") == run.config
    model = LDARNetForMaskedLM.from_pretrained(folder)
    assert all(a.equal(b) for a, b in zip(model.parameters(), run.model.parameters(), strict=True))
    assert set(load_file(folder / "optimizer.safetensors")) == {"exp_avg.a"}
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert {path.name for path in folder.iterdir()} == set(listed) | {"manifest.json"}


def test_commit_is_none_outside_a_git_repository(tmp_path, monkeypatch):
    assert code_commit() is None or len(code_commit().rstrip("+")) >= 12
    monkeypatch.setattr(contents, "__file__", str(tmp_path / "contents.py"))
    assert code_commit() is None


def library_error(*_, **__):
    raise SafetensorError(f"Error while serializing: I/O error: No space left on device (os error {errno.ENOSPC})")


def system_error(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def programming_error(*_, **__):
    raise KeyError("a mistake of ours")


FINGERPRINT = "f" * 64
FULL = r"no space left .*{}; free some space"


@pytest.mark.parametrize(
    ("module", "function", "error", "message"),
    [
        (contents, "save_file", library_error, FULL.format("model.safetensors")),
        (contents, "save_file", system_error, FULL.format("model.safetensors")),
        (contents, "save_config", system_error, FULL.format("step-00000002")),
        (contents, "write_json_atomic", system_error, FULL.format("step-00000002")),
        (manifest, "write_json_atomic", system_error, FULL.format("step-00000002")),
        (contents, "save_config", programming_error, "step-00000002: KeyError: 'a mistake of ours'"),
    ],
)
def test_failed_write_keeps_earlier_checkpoints(run, monkeypatch, module, function, error, message):
    run.write(1)
    with monkeypatch.context() as patch:
        patch.setattr(module, function, error)
        failure = run.write(2)
    assert isinstance(failure, UserError)
    assert run.logged == [
        f"checkpoint of step 2 not written: {str(failure).split(';')[0]}; earlier checkpoints are kept"
    ]
    with pytest.raises(UserError, match=message):
        raise failure
    assert sorted(path.name for path in run.store.folder.iterdir()) == ["pointers.json", "step-00000001"]
    verify(run.store.path(1))
    assert run.write(3) is None
    assert run.steps() == [1, 3]


def test_failed_deletion_of_old_checkpoints_keeps_the_new_one(run, monkeypatch):
    run.write(1)
    with monkeypatch.context() as patch:
        patch.setattr(run.store, "settle", system_error)
        assert run.write(2) is None
    (message,) = run.logged
    assert message.startswith("checkpoint of step 2 written, but old checkpoints could not be deleted: ")
    verify(run.store.path(2))
    assert run.write(3) is None
    assert run.steps() == [2, 3]


@pytest.mark.parametrize("name", ["state.json", "manifest.json", "config.yaml", "model.safetensors"])
def test_damaged_file_is_reported_with_a_fix(run, name):
    run.write(1)
    file = run.store.path(1) / name
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match=rf"{name}.*; restore it, or delete .*step-00000001"):
        run.open()


def test_writes_are_asynchronous_and_can_be_awaited(run, monkeypatch):
    go = threading.Event()
    save = contents.save_file
    monkeypatch.setattr(contents, "save_file", lambda *a, **k: (go.wait(60), save(*a, **k)))
    run.submit(1)
    assert run.steps() == []
    go.set()
    assert run.writer.wait() is None
    assert run.steps() == [1]


def test_partial_files_of_a_killed_save_are_removed(run):
    run.write(1)
    folder = run.store.folder
    (folder / ".step-00000002.partial").mkdir()
    (folder / ".step-00000002.partial/model.safetensors").write_bytes(b"half")
    (folder / ".step-00000000.partial").mkdir()
    (folder / ".pointers.json.0a1b2c3d.partial").write_text("{")
    assert run.store.latest() == run.store.path(1)
    run.store.clean()
    assert sorted(path.name for path in folder.iterdir()) == ["pointers.json", "step-00000001"]
    run.write(2)
    verify(run.store.path(2))


def test_other_checkpoint_format_is_rejected(run):
    run.write(1)
    state = run.store.path(1) / "state.json"
    state.write_text(json.dumps({"format": 1, "code_version": "0.1"}))
    (run.store.path(1) / "config.yaml").unlink()
    with pytest.raises(
        UserError, match=r"state\.json: checkpoint format 1 is not supported \(expected 2\); .* \(0\.1\)"
    ):
        run.open()


@pytest.fixture
def memory():
    """In-memory object store: files without folders."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def mirrored(config_file, tmp_path, memory):
    def make(name="run", *overrides):
        return Run(
            config_file, tmp_path / name, "checkpoint.keep=1", "checkpoint.remote=memory://bucket/run", *overrides
        )

    return make


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("step-*/*")}


def remote_files(memory):
    return {path.removeprefix("/bucket/run/"): memory.cat_file(path) for path in memory.find("/bucket/run")}


def test_mirror_equals_the_local_folder(mirrored, memory, monkeypatch):
    requests = []
    for name in ("put_file", "rm_file", "rm"):
        function = getattr(memory, name)

        def recorded(*paths, function=function, name=name, **named):
            requests.append((name, paths[-1].removeprefix("/bucket/run/")))
            return function(*paths, **named)

        monkeypatch.setattr(memory, name, recorded)
    run = mirrored()
    for step in (1, 2, 3):
        assert run.write(step, best_step=1) is None
        assert remote_files(memory) == files_of(run.store.folder)
    puts = [path for name, path in requests if name == "put_file" and path.startswith("step-00000003")]
    assert len(puts) == 6
    assert puts[-1] == "step-00000003/manifest.json"
    removed = [request for request in requests if request[1].startswith("step-00000002") and request[0] != "put_file"]
    assert removed[:2] == [("rm_file", "step-00000002/manifest.json"), ("rm", "step-00000002")]


def test_run_resumes_from_the_mirror_if_its_folder_is_lost(mirrored, memory):
    run = mirrored()
    for step in (1, 2, 3):
        run.write(step, best_step=1)
    other = mirrored("other")
    found = other.open()
    assert found.state == read_state(run.store.path(3))
    assert files_of(other.store.folder) == files_of(run.store.folder)
    assert other.store.best() == other.store.path(1)
    other.write(4, best_step=1)
    assert other.steps() == [1, 4]
    assert remote_files(memory) == files_of(other.store.folder)


def test_incomplete_remote_checkpoints_are_ignored_and_removed_if_ours(mirrored, memory):
    run = mirrored()
    run.write(1)
    run_id = run.store.run_id
    memory.pipe("/bucket/run/step-00000002/manifest.json", b'{"format": 2, "fi')
    memory.pipe(f"/bucket/run/.step-00000002.{run_id}.partial", b"")
    memory.pipe("/bucket/run/step-00000003/model.safetensors", b"half")
    memory.pipe(f"/bucket/run/.step-00000003.{run_id}.partial", b"")
    memory.pipe("/bucket/run/notes.txt", b"kept")
    assert mirrored("other").open().state.step == 1
    assert run.write(4) is None
    assert set(remote_files(memory)) == set(files_of(run.store.folder)) | {"notes.txt"}


def test_resume_uses_the_newer_of_local_and_remote(config_file, tmp_path, mirrored):
    mirrored().write(3)
    Run(config_file, tmp_path / "behind").write(2)
    assert mirrored("behind").open().state.step == 3
    Run(config_file, tmp_path / "ahead").write(4)
    assert mirrored("ahead").open().state.step == 4


def test_remote_of_another_run_is_rejected(config_file, tmp_path, mirrored):
    """The checkpoints of the other run must not be deleted, even if it has fewer steps."""
    mirrored().write(1)
    Run(config_file, tmp_path / "ahead", "data.length=32").write(4)
    with pytest.raises(UserError, match=r"contains a run at step \d with a different configuration"):
        mirrored("ahead", "data.length=32").open()
    other = mirrored("other", "data.length=32")
    with pytest.raises(
        UserError, match=r"memory://bucket/run: contains a run at step 1 with .* \(data\.length: 64 -> 32"
    ):
        other.open()
    assert other.steps() == []
    with pytest.raises(UserError, match="memory://bucket/run holds a run trained on another data set; use another"):
        open_run_folder(mirrored("third").config, CheckpointStore(other.store.folder.parent, 2), "0" * 64)
    assert other.steps() == []


def test_changed_remote_file_is_rejected(mirrored, memory):
    mirrored().write(1)
    memory.pipe("/bucket/run/step-00000001/model.safetensors", b"changed")
    with pytest.raises(UserError, match=r"memory://bucket/run/step-00000001/model\.safetensors: SHA-256 differs"):
        mirrored("other").open()


def test_failed_copy_is_logged_and_retried(mirrored, memory, monkeypatch):
    """The local checkpoint is complete. To resume, a launch must reach the remote; a finished run need not."""

    def fails(*_, **__):
        raise ConnectionError("no answer\nand more")

    def denies(*_, **__):
        raise PermissionError("no access")

    run = mirrored()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "put_file", fails)
        assert run.write(1) is None
        message = (
            "checkpoints not copied, local checkpoints are complete (checkpoint.remote=memory://bucket/run cannot be "
            "written to (ConnectionError: no answer); check the address, your credentials and the network, or set "
            "checkpoint.remote=null); retrying at the next checkpoint or launch"
        )
        copy_missing(run.config, run.store, run.logged.append)
        assert run.logged == [message, message]
        assert run.open().state.step == 1
    copy_missing(run.config, run.store, run.logged.append)
    assert remote_files(memory) == files_of(run.store.folder)
    assert len(run.logged) == 2
    with monkeypatch.context() as patch:
        patch.setattr(memory, "find", fails)
        with pytest.raises(TransientError, match="cannot be read"):
            run.open()
        assert run.write(10) is None
        found = run.open()
        assert found.finished
        assert "cannot be read" in str(found.remote_error)
        patch.setattr(memory, "find", denies)
        with pytest.raises(UserError, match="cannot be read") as refused:
            run.open()
        assert not isinstance(refused.value, TransientError)


def test_unknown_url_scheme_is_rejected(run):
    with pytest.raises(UserError, match=r"checkpoint\.remote=nowhere://a cannot be used .*nowhere"):
        Mirror("nowhere://a")
