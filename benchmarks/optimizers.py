"""Compare Muon with AdamW at equal bases, and write a results file.

    python -m benchmarks.optimizers --config quickstart --folder runs/optimizers --steps 250

Selects the learning rate of each optimizer in short runs with the first seed, then trains all seeds with it. Runs that
are finished in `--folder` are not repeated. All runs have the same validation windows and masks.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from benchmarks.run_settings import differing_keys, settings
from ldarnet.config import RunConfig, load_config
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.markdown import table
from ldarnet.runtime.metrics_file import read_metrics

OPTIMIZERS = ("adamw", "muon")
SEEDS = (0, 1, 2)
MEASURE = "mask_loss"
RUN_KEYS = ("run.seed", "run.dir", "optimizer.name", "optimizer.lr")
GRID_KEYS = (*RUN_KEYS, "training.steps", "validation.every", "checkpoint.every")
"""Configuration keys in which the runs differ; `GRID_KEYS` also between short runs and others."""


@dataclass(frozen=True)
class OptimizerRun:
    """A finished run.

    Attributes:
        losses: validation loss at masked positions in nats, by step.
        update_share: median fraction of the time of a step that the update takes.
    """

    config: RunConfig
    losses: dict[int, float]
    update_share: float

    @property
    def last(self) -> float:
        """Validation loss after the last step."""
        return self.losses[max(self.losses)]


def train(folder: Path, config: str, overrides: Sequence[str], steps: int) -> OptimizerRun:
    """Train a run on one thread, unless it is finished, and read its metrics.

    Raises:
        UserError: the run failed.
    """
    if not any(line["step"] == steps for line in validations(folder)):
        command = [sys.executable, "-m", "ldarnet", "pretrain", "--config", config, f"run.dir={folder}", *overrides]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if subprocess.run(command, stdout=subprocess.DEVNULL, env=environment).returncode:
            raise UserError(f"{folder}: training failed; see its log, then run the same command again")
    shares = [
        line["phase_share"]["update"] for line in read_metrics(folder / run_files.METRICS) if "phase_share" in line
    ]
    losses = {line["step"]: line[MEASURE] for line in validations(folder)}
    return OptimizerRun(load_config(folder / run_files.CONFIG), losses, statistics.median(shares))


def validations(folder: Path) -> list[dict[str, Any]]:
    """Validation lines of the metrics of a run; empty if it is not started."""
    file = folder / run_files.METRICS
    return [line for line in read_metrics(file) if line["split"] == "valid"] if file.exists() else []


@dataclass(frozen=True)
class OptimizerRuns:
    """The runs of a comparison.

    Attributes:
        grid: short runs by (optimizer, learning rate).
        runs: runs by (optimizer, seed).
    """

    grid: dict[tuple[str, float], OptimizerRun]
    runs: dict[tuple[str, int], OptimizerRun]

    @classmethod
    def of(cls, options: argparse.Namespace) -> "OptimizerRuns":
        """Train all runs.

        Raises:
            UserError: a run failed.
        """
        configs: list[RunConfig] = []

        def trained(kind: str, name: str, lr: float, seed: int, steps: int) -> OptimizerRun:
            overrides = [f"optimizer.name={name}", f"optimizer.lr={lr:g}", f"run.seed={seed}", *options.overrides]
            overrides += [f"training.steps={steps}", f"validation.every={steps // 5}", f"checkpoint.every={steps}"]
            folder = options.folder / f"{kind}-{name}-{lr:g}-seed{seed}"
            run = train(folder, options.config, overrides, steps)
            configs.append(run.config)
            if other := differing_keys(run.config, configs[0], GRID_KEYS):
                raise UserError(f"{folder}: differs from the other runs in {other}; choose another --folder")
            return run

        grid = {
            (name, lr): trained("grid", name, lr, SEEDS[0], options.grid_steps)
            for name in OPTIMIZERS
            for lr in options.lr
        }
        best = {name: min(options.lr, key=lambda lr: grid[name, lr].last) for name in OPTIMIZERS}
        runs = {
            (name, seed): trained("run", name, best[name], seed, options.steps) for seed in SEEDS for name in OPTIMIZERS
        }
        return cls(grid, runs)


def report(found: OptimizerRuns, options: argparse.Namespace) -> str:
    """Render the results file."""
    first = found.runs[OPTIMIZERS[0], SEEDS[0]]
    pairs = [[found.runs[name, seed].last for name in OPTIMIZERS] for seed in SEEDS]
    differences = [muon - adamw for adamw, muon in pairs]
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    means = [statistics.mean(losses) for losses in zip(*pairs, strict=True)]
    bases = first.config.training.batch * first.config.data.length * max(first.losses)
    shares = [
        statistics.median(run.update_share for (other, _), run in found.runs.items() if other == name)
        for name in OPTIMIZERS
    ]
    steps = list(first.losses)
    curves = [
        (name, f"{run.config.optimizer.lr:g}", seed, *(f"{run.losses[step]:.4f}" for step in steps))
        for (name, seed), run in found.runs.items()
    ]
    rates = sorted({lr for _, lr in found.grid})
    grid = [(f"{lr:g}", *(f"{found.grid[name, lr].last:.4f}" for name in OPTIMIZERS)) for lr in rates]
    short = max(found.grid[OPTIMIZERS[0], rates[0]].losses)
    return f"""{heading("Muon against AdamW", options)}

**Small scale**: preset {first.config.model.preset}, {bases:,} bases \
per run. Validation loss at masked positions in nats, after equal numbers of steps and bases:
AdamW {means[0]:.4f}, Muon {means[1]:.4f} (mean of {len(SEEDS)} seeds). Muon minus AdamW, by seed:
{", ".join(f"{difference:+.4f}" for difference in differences)}; mean {mean:+.4f}, standard deviation {spread:.4f}.

The update takes {shares[0]:.1%} of a step with AdamW and {shares[1]:.1%} with Muon (median; CPU, one thread, not an
idle machine).

## Runs

{table(("optimizer", "learning rate", "seed", *(f"step {step:,}" for step in steps)), curves)}

## Learning rates

Loss after runs of {short:,} steps with seed {SEEDS[0]}, whose schedules are as long as these runs. The lowest loss of
each optimizer selects its learning rate.

{table(("learning rate", *OPTIMIZERS), grid)}

## Configuration

```yaml
{yaml.safe_dump(settings(first.config, RUN_KEYS), sort_keys=False)}```
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, write the results file and print its path."""
    parser = ProgramParser("optimizers", __doc__)
    parser.add_argument("--config", default="quickstart", help="configuration")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=500, help="steps of each run")
    parser.add_argument("--grid-steps", type=int, default=80, help="steps of each short run")
    rates = [6e-4, 1.2e-3, 2.4e-3, 4.8e-3]
    parser.add_argument("--lr", type=float, nargs="+", default=rates, help="learning rates")
    parser.add_argument("--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the configuration")
    add_result_options(parser, "optimizers")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    write_result(file, report(OptimizerRuns.of(options), options))


if __name__ == "__main__":
    run_program(main)
