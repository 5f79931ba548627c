"""Compare bf16 and fp32 runs that differ only in precision and seed.

    ldarnet pretrain --config FILE run.dir=runs/fp32-0 run.seed=0 training.precision=fp32   # one per seed and precision
    python -m benchmarks.precision --name quickstart runs/fp32-* runs/bf16-*

Compares the effect of precision (difference between the bf16 and the fp32 run of a seed) with the effect of the seed
(difference between two fp32 runs). All runs have the same validation windows and masks.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import yaml

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from benchmarks.run_settings import differing_keys, settings
from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.markdown import table
from ldarnet.runtime.metrics_file import read_metrics

RUN_KEYS = ("run.seed", "run.dir", "training.precision")
MEASURE = "mask_loss"

Curve = Mapping[int, float]
"""Validation curve: loss at masked positions in nats, by step."""


def read_runs(folders: Sequence[Path]) -> tuple[dict[tuple[str, int], Curve], dict[str, object]]:
    """Read the validation curves, by (precision, seed), and the configuration keys that are equal in all runs.

    Raises:
        UserError: runs differ in more than seed and precision, a run is unfinished, there are fewer than two seeds, or
            a seed lacks its fp32 or its bf16 run.
    """
    curves: dict[tuple[str, int], Curve] = {}
    first = load_config(folders[0] / run_files.CONFIG)
    for folder in folders:
        config = load_config(folder / run_files.CONFIG)
        if other := differing_keys(config, first, RUN_KEYS):
            raise UserError(
                f"{folder}: differs from {folders[0]} in {other}; give runs that differ only in precision and seed"
            )
        lines = read_metrics(folder / run_files.METRICS)
        curve = {line["step"]: line[MEASURE] for line in lines if line["split"] == "valid"}
        if config.training.steps not in curve:
            raise UserError(f"{folder}: not finished; run its training command again")
        curves[config.training.precision, config.run.seed] = curve
    seeds = {seed for _, seed in curves}
    if len(curves) != 2 * len(seeds) or len(seeds) < 2 or {name for name, _ in curves} != {"fp32", "bf16"}:
        raise UserError("runs do not form pairs; give an fp32 and a bf16 run for each of at least two seeds")
    return curves, settings(first, RUN_KEYS)


def compare(curves: Mapping[tuple[str, int], Curve]) -> list[tuple[int, float, float, float, float, float]]:
    """Compare losses at every validation step, and return one row per step.

    A row has the step, the mean loss in fp32 and in bf16, the mean of (bf16 - fp32), the RMS difference between a bf16
    and an fp32 run with the same seed, and the RMS difference between two fp32 runs with different seeds.
    """
    seeds = sorted({seed for _, seed in curves})
    rows = []
    for step in sorted(curves["fp32", seeds[0]]):
        single, half = ([curves[name, seed][step] for seed in seeds] for name in ("fp32", "bf16"))
        differences = [b - a for a, b in zip(single, half, strict=True)]
        between = [b - a for a, b in combinations(single, 2)]
        rows.append((step, _mean(single), _mean(half), _mean(differences), _rms(differences), _rms(between)))
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rms(values: Sequence[float]) -> float:
    return _mean([value**2 for value in values]) ** 0.5


def report(curves: Mapping[tuple[str, int], Curve], shared: Mapping[str, object], options: argparse.Namespace) -> str:
    """Render the results file."""
    rows = compare(curves)
    *_, last = rows
    verdict = "within" if last[4] <= last[5] else "beyond"
    header = ("step", "fp32", "bf16", "bf16 - fp32", "RMS, same seed", "RMS, two fp32 seeds")
    runs = [(f"{name}, seed {seed}", *curve.values()) for (name, seed), curve in sorted(curves.items())]
    steps = [str(step) for step in next(iter(curves.values()))]
    return f"""{heading("bf16 against fp32", options)}

Validation loss at masked positions in nats, over {len(curves) // 2} seeds per precision. At the last step, the RMS
difference is {last[4]:.5f} between precisions and {last[5]:.5f} between seeds; the effect of bf16 is {verdict} seed
noise. Small scale. bf16 is autocast: weights, router, norms, decays, dechunking and losses are float32 in both
precisions.

{table(header, rows)}

## All runs

{table(("run", *steps), runs)}

## Configuration

```yaml
{yaml.safe_dump(dict(shared), sort_keys=False)}```
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the results file and print its path."""
    parser = ProgramParser("precision", __doc__)
    add_result_options(parser, None, prefix="precision-")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders: one fp32 and one bf16 run for each seed"
    )
    options = parser.parse_args(arguments)
    file = result_file(f"precision-{options.name}", options.out)
    curves, shared = read_runs(options.runs)
    write_result(file, report(curves, shared, options))


if __name__ == "__main__":
    run_program(main)
