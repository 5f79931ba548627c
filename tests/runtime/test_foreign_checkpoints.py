"""Only what a run wrote itself is deleted or overwritten, and nothing outside its folders is written."""

import json
import shutil

import pytest

from ldarnet.errors import UserError
from ldarnet.finetuning.fold_store import FoldState, FoldStore
from ldarnet.io.manifest import MAX_MANIFEST_BYTES
from ldarnet.pretraining.async_checkpoint import copy_missing
from ldarnet.pretraining.mirror import Mirror
from ldarnet.pretraining.run_folder import open_run_folder
from ldarnet.runtime.checkpoint import REQUIRED_FILES, CheckpointStore, read_state
from tests.runtime.test_checkpoint import FINGERPRINT, Run

FOREIGN = {
    "no manifest": {"pytorch_model.bin": b"theirs"},
    "manifest of another program": {"manifest.json": b'{"version": 3}', "model.safetensors": b"theirs"},
    "a list": {"manifest.json": b"[]", "a": b"a"},
    "not JSON": {"manifest.json": b"\0\xff", "a": b"a"},
    "no file": {"manifest.json": b'{"format": 2, "step": 5000, "files": {}}'},
}
RENAMED = {
    "run ID of another run": {"run_id": "0" * 32},
    "without a run ID": {"run_id": None},
}


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_files(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def change_manifest(checkpoint, **changes):
    path = checkpoint / "manifest.json"
    changed = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def copied(checkpoint, target, **changes):
    """A complete copy of a checkpoint under another step, with changes of its manifest."""
    shutil.copytree(checkpoint, target)
    change_manifest(target, step=int(target.name.removeprefix("step-")), **changes)
    return target


@pytest.fixture
def run(config_file, tmp_path):
    remote = f"checkpoint.remote=file://{tmp_path}/remote"
    run = Run(config_file, tmp_path / "run", "checkpoint.keep=1", remote)
    run.noticed = []
    run.writer._notice = run.noticed.append
    return run


@pytest.mark.parametrize("name", ["step-5000", "step-00005000", "step-00000001"])
@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_foreign_folders_survive_housekeeping_and_are_reported_once(run, tmp_path, name, files):
    folders = [run.store.folder / name, tmp_path / "remote" / name]
    for folder in folders:
        write_files(folder, files)
    for step in (2, 3, 4):
        assert run.write(step) is None
    assert run.logged == []
    assert run.noticed == [
        f"{place}: not deleted, because its manifest.json does not have the ID of this run"
        for place in (folders[0], f"file://{folders[1]}")
    ]
    assert all(content(folder) == files for folder in folders)
    assert {path.name for path in (tmp_path / "remote").iterdir()} == {name, "step-00000004"}
    found = run.open()
    assert found.state.step == 4
    assert all(content(folder) == files for folder in folders)
    again = CheckpointStore(run.config.run.dir, 1)
    (notice,) = open_run_folder(run.config, again, FINGERPRINT).notices
    assert notice.startswith(str(folders[0]))
    copied_notices = []
    copy_missing(run.config, again, copied_notices.append)
    assert [text.partition(":  ")[0].startswith(f"file://{folders[1]}") for text in copied_notices] == [True]


@pytest.mark.parametrize("changes", RENAMED.values(), ids=RENAMED)
def test_complete_checkpoints_of_other_runs_survive_housekeeping(run, tmp_path, changes):
    run.write(1)
    for folder in (run.store.folder, tmp_path / "remote"):
        copied(run.store.path(1), folder / "step-00005000", **changes)
    expected = content(run.store.folder / "step-00005000")
    if changes["run_id"] is not None:
        assert run.open().state.step == 1
        assert CheckpointStore(run.config.run.dir, 1).latest() == run.store.path(1)
    for step in (2, 3):
        run.write(step)
    for folder in (run.store.folder, tmp_path / "remote"):
        assert content(folder / "step-00005000") == expected
    assert sorted(path.name for path in run.store.folder.glob("step-*"))[-1] == "step-00005000"
    assert not run.store.path(2).exists()


def test_all_launches_of_a_run_share_its_id(run, config_file, tmp_path):
    run.write(1)
    run_id = json.loads((run.store.path(1) / "manifest.json").read_text())["run_id"]
    assert len(run_id) == 32
    assert read_state(run.store.path(1)).run_id == run_id
    resumed = Run(config_file, run.config.run.dir, "checkpoint.keep=1")
    resumed.write(2)
    assert read_state(resumed.store.path(2)).run_id == run_id
    assert resumed.steps() == [2]
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Run(config_file, tmp_path / "elsewhere", f"checkpoint.remote=file://{tmp_path}/remote")
    assert elsewhere.open().state.step == 1
    elsewhere.write(3)
    assert read_state(elsewhere.store.path(3)).run_id == run_id
    new = Run(config_file, tmp_path / "new")
    new.write(1)
    assert read_state(new.store.path(1)).run_id != run_id


def test_checkpoints_of_older_versions_are_resumed_but_not_deleted(run, config_file):
    run.write(1)
    change_manifest(run.store.path(1), run_id=None)
    later = Run(config_file, run.config.run.dir, "checkpoint.keep=1")
    later.noticed = []
    later.writer._notice = later.noticed.append
    assert later.open().state.step == 1
    for step in (2, 3):
        later.write(step)
    assert later.steps() == [1, 3]
    assert [text.partition(":")[0] for text in later.noticed] == [str(later.store.path(1))]


BROKEN = {
    "empty": lambda manifest: {},
    "no files": lambda manifest: manifest | {"files": {}},
    "another step": lambda manifest: manifest | {"step": 3},
    "too large": lambda manifest: manifest | {"padding": "x" * MAX_MANIFEST_BYTES},
    "no step": lambda manifest: {key: value for key, value in manifest.items() if key != "step"},
    **{
        f"without {name}": lambda manifest, name=name: (
            manifest | {"files": {file: entry for file, entry in manifest["files"].items() if file != name}}
        )
        for name in sorted(REQUIRED_FILES)
    },
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_manifest_that_lacks_anything_is_not_a_checkpoint(run, tmp_path, change):
    for step in (1, 2):
        run.write(step, best_step=1)
    for folder in (run.store.folder, tmp_path / "remote"):
        path = folder / "step-00000002/manifest.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    store = CheckpointStore(run.config.run.dir, 1)
    assert store.complete() == [store.path(1)] and store.latest() == store.path(1) and not store.has(2)
    mirror = Mirror(run.config.checkpoint.remote)
    assert list(mirror.complete(store, last=1)) == ["step-00000001"]
    with pytest.raises(UserError, match=r"remote/step-00000002.*restore it, or delete .*step-00000002 to resume from"):
        mirror.complete(store)
    with pytest.raises(UserError, match=r"step-00000002.*restore it, or delete .*step-00000002 to resume from"):
        run.open()
    for folder in (run.store.folder, tmp_path / "remote"):
        shutil.rmtree(folder / "step-00000002")
    assert run.open().state.step == 1


def test_paths_of_later_checkpoints_must_be_free(run):
    write_files(run.store.path(7), {"a": b"theirs"})
    message = r"step-00000007: not a checkpoint of this run, but this run will write to this path; move it away"
    with pytest.raises(UserError, match=message):
        run.open()
    failure = run.write(7)
    assert "step-00000007: exists, but is not a checkpoint of this run; move it away" in str(failure)
    assert content(run.store.path(7)) == {"a": b"theirs"}


def test_remote_folders_of_others_are_not_overwritten(run, tmp_path):
    write_files(tmp_path / "remote/step-00000002", {"a": b"theirs"})
    run.write(2)
    (message,) = run.logged
    assert "remote/step-00000002: exists, but is not a checkpoint of this run; move it away" in message
    assert content(tmp_path / "remote") == {"step-00000002/a": b"theirs"}
    run.write(3)
    assert content(tmp_path / "remote")["step-00000002/a"] == b"theirs"
    assert (tmp_path / "remote/step-00000003/manifest.json").is_file()


OUTSIDE = [
    "../../x",
    "../x",
    "/elsewhere/x",
    "{outside}/x",
    "a/../../x",
    "..\\x",
    "C:\\x",
    "..",
    ".",
    "",
    "a/b",
    "x\0y",
    "\n",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_fetched_manifests_write_nothing_outside(config_file, run, tmp_path, name):
    run.write(1)
    for folder in (tmp_path / "remote", tmp_path):
        (folder / "x").write_text("of the remote")
    path = tmp_path / "remote/step-00000001/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name.format(outside=tmp_path)] = manifest["files"]["state.json"]
    path.write_text(json.dumps(manifest))
    before = content(tmp_path)
    (tmp_path / "deep/er/other").mkdir(parents=True)
    other = Run(config_file, tmp_path / "deep/er/other", f"checkpoint.remote=file://{tmp_path}/remote")
    with pytest.raises(UserError, match=r"step-00000001/manifest.json: damaged \(.*; restore it, or") as caught:
        other.open()
    assert str(caught.value).isprintable()
    assert other.store.complete() == []
    shutil.rmtree(tmp_path / "deep")
    assert content(tmp_path) == before


@pytest.mark.parametrize("run_id", ["../../x", "/x", "a/b", "", "a" * 65, ".*", 5, ["a"]])
def test_run_ids_are_plain_words(run, run_id):
    run.write(1)
    change_manifest(run.store.path(1), run_id=run_id)
    assert CheckpointStore(run.config.run.dir, 1).complete() == []


def test_symbolic_links_in_the_folder_are_not_followed(run, tmp_path):
    theirs = tmp_path / "theirs"
    write_files(theirs, {"a": b"theirs"})
    run.store.folder.mkdir(parents=True)
    for name in ("step-00005000", "step-5000", ".step-00000009.partial"):
        (run.store.folder / name).symlink_to(theirs)
    assert run.open().checkpoint is None
    for step in (2, 3):
        run.write(step)
    assert content(theirs) == {"a": b"theirs"}
    assert not (run.store.folder / ".step-00000009.partial").is_symlink()


def test_hidden_files_of_others_survive_cleaning(run):
    run.write(1)
    names = [".notes.partial", ".step-x.partial", ".partial", ".pointers.json.partial", ".step-1.partial"]
    for name in names:
        (run.store.folder / name).write_text("theirs")
    run.store.clean()
    assert {path.name for path in run.store.folder.glob(".*")} == set(names)


def test_folds_keep_what_is_not_theirs(tmp_path):
    store = FoldStore(tmp_path)
    write_files(tmp_path / "last/00000007", {"a": b"theirs"})
    (tmp_path / "last/notes.txt").write_text("theirs")
    notices = []
    for step in (1, 2, 3):
        notices += store.write({}, {}, FoldState("f", step=step, best_step=1))
    assert store.complete() == [store.path(1), store.path(3)]
    assert [text.partition(":")[0] for text in notices] == [str(tmp_path / "last/00000007")]
    assert len(FoldStore(tmp_path).remove()) == 1
    assert content(tmp_path / "last") == {"00000007/a": b"theirs", "notes.txt": b"theirs"}


def test_folds_are_removed_completely(tmp_path):
    store = FoldStore(tmp_path)
    store.write({}, {}, FoldState("f", step=1))
    assert FoldStore(tmp_path).read(store.path(1), "f") == FoldState("f", step=1)
    assert store.remove() == []
    assert not (tmp_path / "last").exists()
    assert store.remove() == []
