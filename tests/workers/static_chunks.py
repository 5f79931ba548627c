"""Run by each rank: runs with a static number of chunks after two steps, one of them with too many chunks in a step.

Arguments: configuration file, output folder.
"""

import sys
from pathlib import Path

import torch

from ldarnet.config import load_config
from ldarnet.model import network
from ldarnet.pretraining import chunk_capacity
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import distributed
from ldarnet.runtime.engine import Engine

OVERFLOW = 6  # steps, from 0

config_file, out = sys.argv[1], Path(sys.argv[2])
world = distributed.start(2)
forward, update = Engine.forward, Engine.update
overflows = False
static: list[bool] = []


def watched_forward(engine: Engine, input_ids: torch.Tensor, **named):
    """Forward pass; in step `OVERFLOW`, the chunks of the last rank do not fit."""
    if engine.model.training and overflows and len(static) == OVERFLOW and world.rank == world.size - 1:
        assert engine.model.model.backbone.slots_per_position is not None
        engine.model.set_chunk_capacity(0.01)
    return forward(engine, input_ids, **named)


def watched_update(engine: Engine, factor: float, loss: torch.Tensor):
    static.append(engine.model.model.backbone.slots_per_position is not None)
    return update(engine, factor, loss)


def attempt(name: str, *overrides: str) -> None:
    train_on(world, load_config(config_file, [f"run.dir={out}/{name}", *overrides]))
    (out / f"{name}-{world.rank}.txt").write_text(" ".join(str(number) for number, one in enumerate(static) if one))


Engine.forward, Engine.update = watched_forward, watched_update
chunk_capacity.SETTLED_STEPS, chunk_capacity.MIN_FILL, network.SLOT_MULTIPLE = 2, 0.0, 8
capacity = "training.chunk_capacity_factor=2"  # with a target of 2 positions per chunk, all chunks fit
attempt("counted")
static.clear()
attempt("static", capacity)
static.clear()
attempt("resumed", capacity, "training.stop_after=5", "checkpoint.every=3")
attempt("resumed", capacity, "checkpoint.every=3")
static.clear()
overflows = True
attempt("overflow", capacity, "training.log_every=5")
distributed.stop()
