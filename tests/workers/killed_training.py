"""Run by one rank: kills training at points spread over a checkpoint save and resumes it each time."""

import json
import shutil
import sys
from pathlib import Path

from kill_points import KillPoints, forked

from ldarnet.config import load_config
from ldarnet.pretraining import train
from ldarnet.runtime.deepspeed_internals import load_deepspeed

config_file, folder, killed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
STEP = 4


def run(name: str, kill_at: int | None = None, report: Path | None = None) -> None:
    points = KillPoints(STEP, kill_at)
    run_dir = folder / name
    overrides = ["training.steps=6", "validation.windows=0", f"checkpoint.remote=file://{run_dir}/remote"]
    train(load_config(config_file, [f"run.dir={run_dir}", *overrides]))
    if report is not None:
        report.write_text(json.dumps(points.passed))


load_deepspeed()
assert forked(lambda: run("unbroken", report=folder / "points.json")) == 0
points = json.loads((folder / "points.json").read_text())
for number in range(0, len(points), -(-len(points) // killed)):
    name = f"killed-{number}"
    assert forked(lambda name=name, number=number: run(name, number)) == -9, points[number]
    if number % 2:  # as if the machine were lost: keep only the remote copy
        for path in (folder / name).iterdir():
            if path.name != "remote":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert forked(lambda name=name: run(name)) == 0, points[number]
