"""Run by one rank: kills fine-tuning at some of its file-changing system calls and resumes it each time."""

import json
import os
import sys
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401 (imported once, not in every killed process)

from ldarnet.config import FinetuneConfig, load_config
from ldarnet.finetuning.run import finetune
from ldarnet.runtime.deepspeed_internals import load_deepspeed
from tests.workers.kill_points import die, forked

AUDITED = {"os.mkdir", "os.rename", "os.remove", "os.rmdir"}
WRITING = os.O_WRONLY | os.O_RDWR
config_file, folder, killed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])


def run(name: str, kill_at: int | None = None) -> None:
    run_dir, passed = folder / name, []

    def audit(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if not (event in AUDITED or writes) or str(run_dir) not in os.fsdecode(str(arguments[0])):
            return
        passed.append(f"{event} {Path(os.fsdecode(arguments[0])).relative_to(run_dir)}")
        if len(passed) - 1 == kill_at:
            die()

    sys.addaudithook(audit)
    config = load_config(config_file, [f"run.dir={run_dir}", "training.epochs=2"], schema=FinetuneConfig)
    assert finetune(config).finished
    if name == "unbroken":
        points = list(passed)
        (folder / "points.json").write_text(json.dumps(points))


load_deepspeed()
assert forked(lambda: run("unbroken")) == 0
points = json.loads((folder / "points.json").read_text())
for number in range(0, len(points), -(-len(points) // killed)):
    name = f"killed-{number}"
    assert forked(lambda name=name, number=number: run(name, number)) == -9, points[number]
    assert forked(lambda name=name: run(name)) == 0, points[number]
