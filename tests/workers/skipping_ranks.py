"""Run by each rank: runs in which the last rank's loss goes wrong at certain steps; each rank writes what it was told.

Arguments: configuration, folder.
"""

import math
import sys
from pathlib import Path

import torch

from ldarnet.config import load_config
from ldarnet.errors import UserError
from ldarnet.pretraining import loop
from ldarnet.pretraining.run import train_on
from ldarnet.runtime import distributed
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.zero_state import whole_moments, whole_parameters

INFINITE, SPIKE, END = 2, 9, 12  # steps, from 0

config_file, out = sys.argv[1], Path(sys.argv[2])
world = distributed.start(2)
step = 0
factors: dict[int, float] = {}
wrong: list[str] = []
update, forward = Engine.update, Engine.forward
pretraining_loss, accumulate = loop.pretraining_loss, loop._accumulate


def tensors(engine: Engine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in (*whole_parameters(engine), *whole_moments(engine))}


def watched_update(engine: Engine, factor: float, loss: torch.Tensor):
    """Take a step, and note where something changed although it was skipped, or did not although it was not."""
    number, before = step, tensors(engine)
    outcome = update(engine, factor, loss)
    changed = [name for name, tensor in tensors(engine).items() if not tensor.equal(before[name])]
    if bool(changed) == (number in factors):
        wrong.append(f"step {number} changed {changed}")
    inner = engine.deepspeed.optimizer
    counts = {int(entry["step"]) for entry in getattr(inner, "optimizer", inner).state.values()}
    if counts != {number + 1 - sum(skipped <= number for skipped in factors)}:
        wrong.append(f"Adam counts {counts} steps after step {number}")
    if any(parameter.grad is not None for parameter in engine.model.parameters()):
        wrong.append(f"gradients are left after step {number}")
    return outcome


def own_factor() -> float:
    return factors.get(step, 1.0) if world.rank == world.size - 1 else 1.0


def wrong_forward(engine: Engine, input_ids: torch.Tensor):
    """What the whole network computes is no number if the factor is none."""
    if not math.isnan(own_factor()):
        return forward(engine, input_ids)
    hook = engine.model.get_input_embeddings().register_forward_hook(lambda *arguments: arguments[-1] * own_factor())
    try:
        return forward(engine, input_ids)
    finally:
        hook.remove()


def wrong_loss(output, labels, **named):
    loss, part = pretraining_loss(output, labels, **named)
    part.nll, part.windows = part.nll * own_factor(), part.windows * own_factor()
    return loss, part


def counted_accumulate(engine, batches, scored, timers, number, *others, **named):
    global step
    step = number
    return accumulate(engine, batches, scored, timers, number, *others, **named)


def attempt(name: str, *overrides: str) -> str:
    wrong.clear()
    try:
        train_on(world, load_config(config_file, [f"run.dir={out}/{name}", *overrides]))
    except UserError as error:
        return str(error)
    return "; ".join(wrong) or "as it should be"


Engine.update, Engine.forward = watched_update, wrong_forward
loop.pretraining_loss, loop._accumulate = wrong_loss, counted_accumulate
factors = {INFINITE: float("nan"), SPIKE: 50.0}
told = [attempt(f"whole-{stage}", f"training.zero_stage={stage}") for stage in range(4)]
told.append(attempt("stopped", f"training.stop_after={SPIKE + 1}"))
told.append(attempt("stopped"))
factors = dict.fromkeys(range(INFINITE, END), float("inf"))
told.append(attempt("diverged", "guard.stop_after=4", "training.log_every=3", "checkpoint.every=2"))
factors = dict.fromkeys(range(SPIKE - 1, END), 50.0)
told.append(attempt("shifted", "guard.stop_after=2"))
(out / f"told-{world.rank}.txt").write_text("\n".join(told))
distributed.stop()
