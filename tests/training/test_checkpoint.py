"""A checkpoint is complete or absent, whatever happens while it is written."""

import errno

import pytest
import torch
from safetensors import SafetensorError

from ldarnet.errors import UserError
from ldarnet.files import write_json_atomic
from ldarnet.training import checkpoint
from ldarnet.training.checkpoint import CheckpointStore, TrainingState, verify


def state(step, best_step=None):
    return TrainingState(step, 10, 8 * step, 0, "f" * 64, best_step=best_step)


def write(store, step, best_step=None):
    with store.staged(step) as folder:
        checkpoint._save({"weight": torch.ones(3)}, folder / "model.safetensors")
        write_json_atomic(folder / "state.json", vars(state(step, best_step)))
    store.settle()


def test_it_appears_when_complete_and_old_ones_go(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5):
        write(store, step, best_step=min(step, 2))
        verify(store.path(step))
    assert [path.name for path in store.complete()] == ["step-00000002", "step-00000004", "step-00000005"]
    assert store.best() == store.path(2)
    assert sorted(path.name for path in store.folder.iterdir() if path.is_dir()) == [
        path.name for path in store.complete()
    ]


def library_error(*_, **__):
    raise SafetensorError(f"Error while serializing: I/O error: No space left on device (os error {errno.ENOSPC})")


def system_error(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("function", "error", "file"),
    [
        ("save_file", library_error, "model.safetensors"),
        ("save_file", system_error, "model.safetensors"),
        ("write_json_atomic", system_error, "manifest.json"),
    ],
)
def test_full_disk_leaves_the_old_ones(tmp_path, monkeypatch, function, error, file):
    store = CheckpointStore(tmp_path, keep=1)
    write(store, 1)
    monkeypatch.setattr(checkpoint, function, error)
    with pytest.raises(UserError, match=rf"no space left .*{file}; free some space"):
        write(store, 2)
    assert store.complete() == [store.path(1)]
    assert sorted(path.name for path in store.folder.iterdir()) == ["pointers.json", "step-00000001"]
    verify(store.path(1))


def test_full_disk_anywhere_in_the_block_is_told(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    with pytest.raises(UserError, match=r"no space left .*free some space"), store.staged(1):
        system_error()
    assert list(store.folder.iterdir()) == []


def test_leftovers_of_a_killed_save_are_cleaned(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    write(store, 1)
    (store.folder / ".staged-00000002").mkdir()
    (store.folder / ".staged-00000002/model.safetensors").write_bytes(b"half")
    (store.folder / ".doomed-step-00000000").mkdir()
    (store.folder / "step-00000002").mkdir()
    (store.folder / "step-00000002/model.safetensors").write_bytes(b"half")
    assert store.latest() == store.path(1)
    store.clean()
    assert sorted(path.name for path in store.folder.iterdir()) == ["pointers.json", "step-00000001"]
    write(store, 2)
    verify(store.path(2))
