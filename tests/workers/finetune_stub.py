"""Stub of `ldarnet finetune` for tests: same arguments, files and exit statuses, without training.

script.yaml in the sweep folder controls its behavior:

scores: {nt/H3: {"0.0001": 0.5}}      validation score of epoch 1 by task and learning rate; by default 1e-4 is best
seconds: 0.1                          duration of an epoch
saving: 5.0                           seconds between a signal and the exit
wait: 2                               after this many epochs, wait for a file `go` next to script.yaml
faults: {nt/H3 0.0001 fold1: {...}}   {user_error: TEXT, epoch: N}, or {kind: kill or transient, times: N} in epoch 2,
                                      or {kind: late, times: N}, killed between result and summary
"""

import fcntl
import json
import math
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
    config = yaml.safe_load(Path(arguments[arguments.index("--config") + 1]).read_text())
    changes = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    run_dir, (fold,) = Path(yaml.safe_load(changes["run.dir"])), yaml.safe_load(changes["folds.only"])
    script_file = next(path for up in run_dir.parents if (path := up / "script.yaml").exists())
    script, go = yaml.safe_load(script_file.read_text()), script_file.with_name("go")
    lr, task, folder = config["optimizer"]["lr"], config["task"], run_dir / f"fold{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    if stopped:
        return 75
    with (run_dir / "starts").open("a") as starts:
        starts.write(f"{time.time()} GPUs [{os.environ['CUDA_VISIBLE_DEVICES']}]\n")
    attempt = len((run_dir / "starts").read_text().splitlines())
    fault = script.get("faults", {}).get(f"{task} {lr} fold{fold}", {})
    metrics = folder / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    first = script["scores"].get(task, {}).get(str(lr), 0.5 - abs(math.log10(lr) + 4) / 10)
    scores = [first + 0.001 * fold * epoch for epoch in range(config["training"]["epochs"])]
    for epoch, score in enumerate(scores, 1):
        if "user_error" in fault and epoch == fault["epoch"]:
            print(f"error: {fault['user_error']}", file=sys.stderr)
            return 1
        if epoch <= done:
            continue
        time.sleep(script.get("seconds", 0.0))
        while epoch > script.get("wait", epoch) and not go.exists() and not stopped:
            time.sleep(0.1)
        if stopped:
            time.sleep(script.get("saving", 0.0))
            (run_dir / "saved").touch()
            return 75
        if attempt <= fault.get("times", 0) and epoch == 2 and fault["kind"] != "late":
            if fault["kind"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            print("error: a network did not answer", file=sys.stderr)
            return 70
        with metrics.open("a") as file:
            file.write(json.dumps({"epoch": epoch, "split": "valid", "mcc": score}) + "\n")
    (folder / "best").mkdir(exist_ok=True)
    (folder / "best" / "weights").touch()
    # Test scores decrease with validation scores, so that selection by test scores is detected.
    result = {"valid": {"mcc": max(scores)}, "test": {"mcc": 1 - max(scores)}, "data_fingerprint": "abc"}
    (folder / ".result").write_text(json.dumps(result))
    (folder / ".result").replace(folder / "result.json")
    if attempt <= fault.get("times", 0) and fault["kind"] == "late":
        os.kill(os.getpid(), signal.SIGKILL)
    (run_dir / "export").mkdir(exist_ok=True)
    (run_dir / "summary.json").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
