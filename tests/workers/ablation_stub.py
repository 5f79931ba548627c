"""Stub of the programs of an ablation for tests: pretraining, fine-tuning and statistics, without training.

script.yaml in the ablation folder controls its behavior; runs are named by their folder below `arms`:

losses: {learned/lr/0.01: 1.2}       final validation loss; 1.3 by default
steps: 3                             steps of a run, each one line of metrics.jsonl
seconds: 0.1                         duration of a step
faults: {grid/seed0/pretrain: {...}} {user_error: TEXT}, or {kill: N}: killed in step 1 of N attempts
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml


def main() -> int:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    arguments = sys.argv[1:]
    if arguments[0] != "--config":
        folder = Path(arguments[0], "arms", arguments[1])
        (folder / "statistics.json").write_text("{}")
        return start(folder / "starts-statistics")
    changes = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    config = yaml.safe_load(Path(arguments[1]).read_text())
    folder = Path(yaml.safe_load(changes["run.dir"]))
    root = next(path for path in folder.parents if (path / "script.yaml").exists())
    script, name = yaml.safe_load((root / "script.yaml").read_text()), str(folder.relative_to(root / "arms"))
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # a killed ablation may not have stopped its runs yet
    if stopped:
        return 75
    start(folder / "starts")
    attempt = len((folder / "starts").read_text().splitlines())
    fault, pretraining = script.get("faults", {}).get(name, {}), "task" not in config
    if "user_error" in fault:
        print(f"error: {fault['user_error']}", file=sys.stderr)
        return 1
    metrics = folder / "metrics.jsonl" if pretraining else folder / "fold0" / "metrics.jsonl"
    metrics.parent.mkdir(exist_ok=True)
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    for step in range(done + 1, script.get("steps", 1) + 1):
        time.sleep(script.get("seconds", 0.0))
        if stopped:
            return 75
        loss = script.get("losses", {}).get(name, 1.3)
        line = {"step": step, "split": "valid", "mlm_loss": loss, "mask_loss": loss, "bases_per_chunk": [4.0]}
        with metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if attempt <= fault.get("kill", 0):
            os.kill(os.getpid(), signal.SIGKILL)
    (folder / "arguments.json").write_text(json.dumps(changes))
    (folder / "export").mkdir(exist_ok=True)
    (folder / ("summary.txt" if pretraining else "summary.json")).touch()
    return 0


def start(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as starts:
        starts.write(f"{time.time()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
