"""Measure time and peak memory of `ldarnet report` and `ldarnet compare` on large inputs.

    python -m benchmarks.large_reports

Writes synthetic runs to a temporary folder inside `--folder`. Each command runs in a new process.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from benchmarks.timed import timed
from ldarnet.io.files import make_folder
from ldarnet.markdown import table
from ldarnet.tasks.metrics import METRICS
from ldarnet.tasks.registry import find_task

HEADER = ("command", "input", "input, MB", "seconds", "peak memory, MB")
TASKS = ("nt/H3", "nt/H4", "nt/H3K4me1", "nt/H3K36me3", "nt/enhancers")
FOLDS = 10
METHOD = """Seconds: wall time of the command, including the start of Python. Peak memory: maximum resident set size of
the process. The metrics file has one training line per step with two stages, and a validation line with 20 regions
every 1,000 steps. The folds have predictions of all official test rows; all arms are paired on all tasks, and
their test rows are resampled."""


def write_metrics(path: Path, lines: int) -> None:
    """Write a metrics.jsonl with the given number of training lines."""
    rng = np.random.default_rng(0)
    losses = 1.2 + 0.7 * np.exp(-np.arange(lines) / (lines / 10)) + rng.normal(0, 0.01, lines)
    modules = [f"stage{stage}/{part}" for stage in range(3) for part in ("encoder", "decoder", "router", "main")]
    shared = {
        "bases_per_chunk": [4.0, 15.8],
        "boundary_probability": [0.25, 0.25],
        "target_ratio": 4.0,
        "boundary_histogram": np.full((2, 20), 0.05).tolist(),
        "boundary_tokens": dict.fromkeys(["A", "C", "G", "T", "MASK"], 0.2),
        "boundary_rate": dict.fromkeys(["A", "C", "G", "T", "MASK"], 0.25),
        "periodicity": [0.05, 0.04],
        "period": [3, 24],
        "chunk_imbalance": [1.02, 1.03],
        "gradient_norm": 0.3,
        "gradient_norms": dict.fromkeys(modules, 0.0123456789),
        "lr": {f"stage{stage}/{decay}": 1e-4 for stage in range(3) for decay in ("decay", "no_decay")},
        "bases_per_second": 1234567.8,
        "phase_share": dict.fromkeys(["data", "agree", "forward", "backward", "update"], 0.2),
        "data_wait": 0.001,
        "memory": {"host": 8e9, "device": 5e10},
        "checkpoint_stall_seconds": 0.0,
        "warnings": {},
    }
    tail = json.dumps(shared)[1:]
    region = {"mlm_loss": 1.25, "bases_per_chunk": [4.0, 15.8], "scored": 9000}
    regions = {f"region {index}": region for index in range(20)}
    with path.open("w") as file:
        for step, loss in enumerate(losses.tolist(), start=1):
            head = {"step": step, "split": "train", "epoch": step / lines, "length": 4096, "loss": loss}
            head |= {"mlm_loss": loss, "ratio_loss": 1.0, "bases": step * 2**21, "seconds": 1.7 * step}
            file.write(f"{json.dumps(head)[:-1]}, {tail}\n")
            if step % 1000 == 0:
                valid = {"step": step, "split": "valid", "mlm_loss": loss, "mask_loss": loss + 0.05}
                valid |= {"composition_loss": 1.36, "accuracy": 0.4, "bases_per_chunk": [4.0, 15.8], "regions": regions}
                file.write(json.dumps(valid) + "\n")


def write_folds(folder: Path, arms: int) -> int:
    """Write results and predictions of `FOLDS` folds for every arm and task; return the total number of folds."""
    rng = np.random.default_rng(0)
    for task_name in TASKS:
        task = find_task(task_name)
        rows, tests = task.rows["train"], task.rows["test"]
        labels = rng.integers(0, 2, tests)
        for arm in range(arms):
            for fold in range(FOLDS):
                path = folder / f"arm{arm}" / task.name / f"fold{fold}"
                path.mkdir(parents=True)
                predicted = np.where(rng.random(tests) < 0.7 + 0.01 * arm, labels, 1 - labels)
                lines = ["name\tlabel\tpredicted\tp_0\tp_1\tleak_free"]
                lines += [f"row{row}\t{labels[row]}\t{predicted[row]}\t0.51234\t0.48766\t1" for row in range(tests)]
                (path / "predictions.tsv").write_text("\n".join(lines) + "\n")
                value = float(0.4 + 0.01 * arm + rng.normal(0, 0.01))
                scores = dict.fromkeys(METRICS, value) | {"loss": 0.5}
                content = {
                    "task": task.name,
                    "suite": task.suite,
                    "fold": fold,
                    "folds": FOLDS,
                    "arm": "checkpoint",
                    "mode": "full",
                    "metric": "mcc",
                    "settings": {"folds.seed": 42, "folds.stratified": False, "data.limit": None, "optimizer.lr": 1e-4},
                    "seed": 42,
                    "data_fingerprint": "f" * 64,
                    "classes": ["0", "1"],
                    "rows": {"train": rows - rows // 10, "valid": rows // 10, "test": tests, "test_leak_free": 100},
                    "best_epoch": 3,
                    "best_step": 300,
                    "valid": scores,
                    "test": scores,
                    "test_leak_free": scores,
                    "bases_per_chunk": {"before": [4.0], "after": [5.0]},
                    "seconds": 60.0,
                    "checkpoint_sha256": f"{arm:064x}",
                    "commit": "c" * 40,
                }
                (path / "result.json").write_text(json.dumps(content))
    return len(TASKS) * arms * FOLDS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the results file and print its path."""
    parser = ProgramParser("large_reports", __doc__)
    parser.add_argument("--lines", type=int, default=1_000_000, help="training lines in metrics.jsonl")
    parser.add_argument("--arms", type=int, default=20, help="arms to compare")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder for temporary files")
    add_result_options(parser, "large-reports")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    rows = []
    with tempfile.TemporaryDirectory(dir=make_folder(options.folder)) as name:
        folder = Path(name).absolute()
        run = folder / "run"
        run.mkdir()
        write_metrics(run / "metrics.jsonl", options.lines)
        size = (run / "metrics.jsonl").stat().st_size / 1e6
        measured = timed("-m", "ldarnet", "report", run)
        rows.append(("report", f"{options.lines:,} metrics lines", f"{size:,.0f}", *measured))
        (run / "metrics.jsonl").unlink()
        folds = write_folds(folder, options.arms)
        size = sum(path.stat().st_size for path in folder.glob("arm*/**/*") if path.is_file()) / 1e6
        arms = [f"arm {arm}={folder / f'arm{arm}'}" for arm in range(options.arms)]
        measured = timed("-m", "ldarnet", "compare", *arms, "--out", folder / "out")
        rows.append(("compare", f"{folds:,} folds, {options.arms} arms, {len(TASKS)} tasks", f"{size:,.0f}", *measured))
    cells = [(*row[:3], f"{row[3]:.0f}", f"{row[4] / 1e6:,.0f}") for row in rows]
    title = heading("Large reports and comparisons", options)
    write_result(file, f"{title}\n\n{METHOD}\n\n{table(HEADER, cells)}\n")


if __name__ == "__main__":
    run_program(main)
