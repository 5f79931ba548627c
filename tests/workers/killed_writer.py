"""Run by one rank: kills the checkpoint writer at every point and prints what the next launch finds, as JSON lines."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import torch
from kill_points import KillPoints, forked

from ldarnet import LDARNetConfig
from ldarnet.config import RunConfig, load_config
from ldarnet.io.files import sha256_file
from ldarnet.pretraining.async_checkpoint import CheckpointWriter
from ldarnet.pretraining.run_folder import open_run_folder
from ldarnet.runtime.checkpoint import CheckpointStore, TrainingState
from ldarnet.runtime.checkpoint_files import CheckpointContents

folder = Path(sys.argv[2])
run, remote, fresh = folder / "run", folder / "remote", folder / "fresh"
STEP = 6


def config_of(run_dir: Path) -> RunConfig:
    return load_config(sys.argv[1], [f"run.dir={run_dir}", f"checkpoint.remote=file://{remote}", "checkpoint.keep=1"])


def content(step: int) -> CheckpointContents:
    tensors = {name: torch.full((64, 32), float(step)) for name in "ab"}
    state = TrainingState(step, 10, 8 * step, 0, "f" * 64, best_step=2)
    return CheckpointContents(tensors, tensors, LDARNetConfig.preset("tiny"), config_of(run), state)


def save(*steps: int, kill_at: int | None = None, report: Path | None = None) -> None:
    """Write checkpoints; at STEP, die at the point number `kill_at` or write the list of points to `report`."""
    points = KillPoints(STEP, kill_at)
    writer = CheckpointWriter(config_of(run), CheckpointStore(run, keep=1), partial(print, file=sys.stderr))
    for step in steps:
        writer.submit(content(step))
        assert writer.wait() is None
    writer.close()
    if report is not None:
        report.write_text(json.dumps(points.passed))


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def launch(run_dir: Path) -> dict:
    """Step, checkpoints and other files that a launch finds in a run folder, and whether all checkpoints are intact."""
    store = CheckpointStore(run_dir, keep=1)
    found = open_run_folder(config_of(run_dir), store, "f" * 64)
    other = {path.name for path in store.folder.iterdir()} - {path.name for path in store.complete()}
    return {
        "step": found.state.step,
        "steps": [int(path.name[-8:]) for path in store.complete()],
        "other": sorted(other),
        "bytes_match": all(hashes(path) == written[path.name] for path in store.complete()),
    }


def restore() -> None:
    """Restore the folders to their state before the checkpoint of STEP."""
    for path in (run, remote, fresh):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(before / "run", run)
    shutil.copytree(before / "remote", remote)


before, written = folder / "before", {}
assert forked(lambda: save(2, 4)) == 0
for path in (run, remote):
    shutil.copytree(path, before / path.name)
written |= {path.name: hashes(path) for path in CheckpointStore(run, 1).complete()}
assert forked(lambda: save(STEP, report=folder / "points.json")) == 0
written |= {path.name: hashes(path) for path in CheckpointStore(run, 1).complete()}

for number, point in enumerate(json.loads((folder / "points.json").read_text())):
    restore()
    status = forked(lambda number=number: save(STEP, kill_at=number))
    after = {"point": point, "status": status, "remote_only": launch(fresh), "local": launch(run)}
    after["resumed"] = forked(lambda: save(8))
    after["final"] = [sorted(path.name for path in store.glob("step-*")) for store in (run / "checkpoints", remote)]
    print(json.dumps(after), flush=True)
