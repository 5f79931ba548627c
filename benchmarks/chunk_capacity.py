"""Cost of a static number of chunks (`training.chunk_capacity_factor`), from the chunk counts of trained models.

    python -m benchmarks.chunk_capacity RUN [RUN ...]

The first table counts the chunks of masked training windows with the newest checkpoint of the first run. Micro-batches
are drawn from these windows with replacement. The second table replays the decisions of the training loop over the
logged steps of every run; all steps must be logged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from ldarnet.config import RunConfig, load_config
from ldarnet.data import training_steps
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.markdown import table
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.cost import cost
from ldarnet.pretraining.chunk_capacity import ChunkCapacity
from ldarnet.pretraining.masks import training_masking
from ldarnet.pretraining.setup import open_shards, training_windows
from ldarnet.runtime.checkpoint import CheckpointStore
from ldarnet.runtime.metrics_file import read_metrics

RARE = 1e-4
"""Fraction of micro-batches that may have too many chunks."""
DRAWS = 500_000
"""Micro-batches drawn per cell."""
READ = 16
"""Windows per forward pass."""
PRESET, LENGTH = "ldarnet-110m", 4096
"""Model and window length for which FLOPs are computed."""


def count_chunks(config: RunConfig, model: LDARNetForMaskedLM, length: int, windows: int) -> np.ndarray:
    """Number of chunks of masked training windows, relative to the target, (windows,), for the outermost router."""
    training = training_windows(config, open_shards(config.data), length)
    batches = training_steps(
        training,
        training_masking(config),
        micro_batch=READ,
        accumulation=1,
        rank=0,
        world=1,
        first_step=0,
        last_step=-(-windows // READ),
    )
    counts = []
    with torch.no_grad():
        for (batch,) in batches:
            (boundaries, *_) = model.model(batch.input_ids.long()).boundaries
            counts.append(boundaries.mask.sum(1))
    return torch.cat(counts).numpy() * (model.config.target_ratio / length)


def batch_fills(fills: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Number of chunks of micro-batches of `size` windows drawn with replacement, relative to the target, (DRAWS,)."""
    total = np.zeros(DRAWS)
    for _ in range(size):
        total += rng.choice(fills, DRAWS)
    return total / size


def extra_flops(fill: float, factor: float) -> float:
    """FLOPs of a training step with padding, divided by those without, minus 1."""
    config = LDARNetConfig.preset(PRESET)
    padded, exact = (
        cost(config, LENGTH, [config.target_ratio / chunks]).training_flops for chunks in (max(factor, fill), fill)
    )
    return padded / exact - 1


def distribution(
    config: RunConfig, model: LDARNetForMaskedLM, lengths: Sequence[int], sizes: Sequence[int], bases: int
) -> Iterator[list[object]]:
    """Rows of the first table."""
    rng = np.random.default_rng(0)
    for length in lengths:
        windows = bases // length
        fills = count_chunks(config, model, length, windows)
        for size in sizes:
            drawn = batch_fills(fills, size, rng)
            mean, largest = float(drawn.mean()), float(np.quantile(drawn, 1 - RARE))
            yield [
                length, f"{len(fills):,}", size, f"{mean:.3f}", f"{drawn.std():.3f}", f"{largest:.3f}",
                f"{1 - mean / largest:.1%}", f"{extra_flops(mean, largest):+.1%}",
                *(f"{np.mean(drawn > factor):.1e}" for factor in (1.1, 1.25)),
            ]  # fmt: skip


def replay(fills: Sequence[float], factor: float) -> tuple[int, int, float]:
    """Replay the decisions of a run.

    Args:
        fills: number of chunks of each step, relative to the target.
        factor: `training.chunk_capacity_factor`.

    Returns:
        Number of steps with a static number of chunks; number of skipped steps; chunks that are padding in the static
        steps that are not skipped, as a fraction.
    """
    capacities: list[float | None] = []
    stub: Any = SimpleNamespace(config=SimpleNamespace(expected_ratio=1.0), set_chunk_capacity=capacities.append)
    capacity = ChunkCapacity(stub, factor, None, lambda text: None)
    for step, fill in enumerate(fills):
        capacity.begin_step(step)
        loss = torch.tensor(torch.nan if capacity.static and fill > factor else 0.0)
        capacity.end_step(torch.tensor([[0.0, fill, 1.0]]), loss)
    static = [fill for fill, used in zip(fills, capacities, strict=True) if used is not None]
    fitting = [fill for fill in static if fill <= factor]
    padding = 1 - sum(fitting) / (factor * len(fitting)) if fitting else 0.0
    return len(static), len(static) - len(fitting), padding


def replays(runs: Sequence[Path], factors: Sequence[float]) -> Iterator[list[object]]:
    """Rows of the second table.

    Raises:
        UserError: a run did not log every step.
    """
    for run in runs:
        config = load_config(run / run_files.CONFIG)
        target = config.model.build({}).target_ratio
        lines = [line for line in read_metrics(run / run_files.METRICS) if line["split"] == "train"]
        if [line["step"] for line in lines] != list(range(1, len(lines) + 1)):
            raise UserError(f"{run}: not every step is logged; train it with training.log_every=1")
        fills = [target / line["bases_per_chunk"][0] for line in lines]
        for factor in factors:
            static, skipped, padding = replay(fills, factor)
            row = [
                run.name,
                f"{len(fills):,}",
                config.training.batch,
                f"{factor:g}",
                f"{static / len(fills):.0%}",
                skipped,
            ]
            yield [*row, f"{padding:.1%}", f"{extra_flops((1 - padding) * factor, factor):+.1%}"]


def report(options: argparse.Namespace) -> str:
    """Content of the results file."""
    first = options.runs[0]
    config = load_config(first / run_files.CONFIG)
    checkpoint = CheckpointStore(first, config.checkpoint.keep).latest()
    if checkpoint is None:
        raise UserError(f"{first}: no checkpoint; train the run first")
    model = LDARNetForMaskedLM.from_pretrained(checkpoint).eval()
    drawn = list(distribution(config, model, options.lengths, options.batches, options.bases))
    header = [
        "bases per window", "windows counted", "windows per micro-batch", "chunks, mean", "standard deviation",
        f"exceeded by {RARE:.0e} of the micro-batches", "padding at that factor", "FLOPs at that factor",
        "micro-batches above 1.1", "above 1.25",
    ]  # fmt: skip
    steps = ["run", "steps", "windows per step", "factor", "static steps", "skipped steps", "padding", "FLOPs"]
    return f"""{heading("Static number of chunks", options)}
- Chunks are relative to the target: 1 is one chunk per {model.config.target_ratio:g} bases.
- FLOPs: training step of {PRESET} with {LENGTH:,}-base windows, relative to the same step without padding
  (`ldarnet.model.cost`); the capacity is not rounded.

## Micro-batches of a trained model

Masked training windows, checkpoint {checkpoint.name} of the first run; {DRAWS:,} micro-batches per row, drawn with
replacement.

{table(header, drawn)}

## Training runs

Decisions of the training loop, replayed over the logged steps. Padding and FLOPs are those of static steps.

{table(steps, list(replays(options.runs, options.factors)))}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the path of the results file."""
    parser = ProgramParser("chunk_capacity", __doc__)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folders of pretraining")
    add("--lengths", nargs="+", type=int, default=[512, 4096], help="bases per window")
    add("--batches", nargs="+", type=int, default=[8, 32], help="windows per micro-batch")
    add("--bases", type=int, default=2_000_000, help="bases to count per length")
    add("--factors", nargs="+", type=float, default=[1.1, 1.25, 1.5, 2.0], help="capacity factors of the replay")
    add_result_options(parser, "chunk-capacity")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    write_result(file, report(options))


if __name__ == "__main__":
    run_program(main)
